//! Markers that keep control tokens typed by users plain text: whoever writes a
//! prompt from parsed input, template or built-in format, cannot tell them from
//! its own.

use aho_corasick::AhoCorasick;
use serde_json::Value as Json;

use crate::{Result, TextError};

/// A noncharacter that stands inside added tokens typed by users, so that
/// neither the template nor the tokeniser takes them for its own.
pub const MARKER: char = '\u{FDD0}';

/// Finds added tokens in the input's strings and puts a marker into each.
pub struct Markers {
    tokens: Vec<String>,
    search: AhoCorasick,
}

impl Markers {
    pub fn new(added_tokens: &[&str]) -> Result<Self> {
        // Runs of blanks are added tokens in some vocabularies, but control
        // nothing.
        let controls = added_tokens.iter().filter(|token| !token.trim().is_empty());
        let tokens: Vec<String> = controls.map(|token| token.to_string()).collect();
        let search =
            AhoCorasick::new(&tokens).map_err(|e| TextError::invalid("added_tokens", e))?;
        Ok(Markers { tokens, search })
    }

    /// JSON whose strings carry markers; `field` names it in errors, and
    /// "messages" also what assistants may say.
    pub fn parse(&self, field: &str, text: &str) -> Result<Json> {
        let mut json = serde_json::from_str(text).map_err(|e| TextError::invalid(field, e))?;
        match &mut json {
            Json::Array(items) if field == "messages" => {
                for item in items {
                    let by_assistant = item["role"] == "assistant";
                    self.insert_all(item, by_assistant);
                }
            }
            other => self.insert_all(other, false),
        }
        Ok(json)
    }

    fn insert_all(&self, json: &mut Json, by_assistant: bool) {
        match json {
            Json::String(text) => *text = self.insert(text, by_assistant),
            Json::Array(items) => {
                items.iter_mut().for_each(|item| self.insert_all(item, by_assistant));
            }
            Json::Object(fields) => {
                let old = std::mem::take(fields);
                for (key, mut value) in old {
                    self.insert_all(&mut value, by_assistant);
                    fields.insert(self.insert(&key, by_assistant), value);
                }
            }
            _ => {}
        }
    }

    /// `text` with a marker after the first character of every added token and
    /// of an end of `text` that could begin one, which the next string may
    /// complete. Templates look for think tags in what the assistant said.
    fn insert(&self, text: &str, by_assistant: bool) -> String {
        let text: String = text.chars().filter(|c| *c != MARKER).collect();
        let mut starts: Vec<usize> = self
            .search
            .find_overlapping_iter(&text)
            .filter(|found| {
                let token = self.tokens[found.pattern().as_usize()].as_str();
                !(by_assistant && matches!(token, "<think>" | "</think>"))
            })
            .map(|found| found.start())
            .collect();
        starts.extend(self.open_end(&text));
        starts.sort_unstable();
        starts.dedup();
        let mut marked = String::with_capacity(text.len() + 3 * starts.len());
        let mut done = 0;
        for start in starts {
            let first = text[start..].chars().next().map_or(0, char::len_utf8);
            marked.push_str(&text[done..start + first]);
            marked.push(MARKER);
            done = start + first;
        }
        marked.push_str(&text[done..]);
        marked
    }

    /// Where the longest end of `text` starts that begins an added token.
    fn open_end(&self, text: &str) -> Option<usize> {
        let longest = self.tokens.iter().map(String::len).max().unwrap_or(0);
        let from = text.len().saturating_sub(longest);
        let ends = (from..text.len()).filter(|at| text.is_char_boundary(*at));
        // One character is too common to break text at.
        let mut ends = ends.filter(|at| text[*at..].chars().nth(1).is_some());
        ends.find(|at| {
            let end = &text[*at..];
            self.tokens.iter().any(|token| token.len() > end.len() && token.starts_with(end))
        })
    }
}
