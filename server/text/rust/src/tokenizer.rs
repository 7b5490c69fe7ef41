//! A tokeniser and the table of the bytes its tokens stand for.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::{Result, ShoalBytes, TextError};

/// Larger ids can only come from a damaged file; the table would not fit.
const MAX_VOCABULARY: usize = 1 << 22;

const ADDED: u32 = 1;
const SPECIAL: u32 = 2;

/// An entry of the token table as shoal_text.h lays it out.
#[repr(C)]
pub struct Token {
    bytes: ShoalBytes,
    flags: u32,
}

pub struct TextTokenizer {
    tokenizer: Tokenizer,
    tokens: Vec<Token>,
    // What the tokens point into; never changed after new().
    _arena: Box<[u8]>,
    added: Vec<String>,
    strips_leading_space: bool,
}

// SAFETY: the pointers of `tokens` lead into `_arena`, which is never written.
unsafe impl Send for TextTokenizer {}
unsafe impl Sync for TextTokenizer {}

/// How tokens become bytes, read off the tokeniser's decoder.
#[derive(Default)]
struct Decoding {
    byte_level: bool,
    byte_fallback: bool,
    replacements: Vec<(String, String)>,
    strips_leading_space: bool,
}

impl TextTokenizer {
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let tokenizer = Tokenizer::from_bytes(json).map_err(|e| TextError::invalid("", e))?;
        let vocabulary = tokenizer.get_vocab(true);
        Self::new(tokenizer, vocabulary.into_iter().map(|(text, id)| (id as usize, text)))
    }

    /// `names`: id and text of every token.
    pub fn new(
        mut tokenizer: Tokenizer,
        names: impl Iterator<Item = (usize, String)>,
    ) -> Result<Self> {
        // Prompts are neither cut nor filled up, whatever the file says.
        tokenizer.with_truncation(None).map_err(|e| TextError::invalid("truncation", e))?;
        tokenizer.with_padding(None);
        let mut decoding = Decoding::default();
        if let Some(decoder) = tokenizer.get_decoder() {
            let decoder =
                serde_json::to_value(decoder).map_err(|e| TextError::invalid("decoder", e))?;
            decoding.add(&decoder)?;
        }
        let added = tokenizer.get_added_tokens_decoder();
        let alphabet = byte_alphabet();

        let mut arena = Vec::new();
        let mut entries: Vec<(usize, usize, u32)> = Vec::new();
        let names =
            names.chain(added.iter().map(|(id, token)| (*id as usize, token.content.clone())));
        for (id, name) in names {
            if id >= MAX_VOCABULARY {
                return Err(TextError::invalid(
                    "vocab",
                    format!("expected ids below {MAX_VOCABULARY}, got {id}"),
                ));
            }
            if id >= entries.len() {
                entries.resize(id + 1, (0, 0, 0));
            }
            let start = arena.len();
            let flags = match added.get(&(id as u32)) {
                Some(token) => {
                    arena.extend_from_slice(token.content.as_bytes());
                    if token.special {
                        ADDED | SPECIAL
                    } else {
                        ADDED
                    }
                }
                None => {
                    decoding.append(&name, &alphabet, &mut arena);
                    0
                }
            };
            entries[id] = (start, arena.len(), flags);
        }
        let arena = arena.into_boxed_slice();
        let tokens = entries
            .into_iter()
            .map(|(start, end, flags)| Token { bytes: ShoalBytes::new(&arena[start..end]), flags })
            .collect();
        let added = added.values().map(|token| token.content.clone()).collect();
        let strips_leading_space = decoding.strips_leading_space;
        Ok(TextTokenizer { tokenizer, tokens, _arena: arena, added, strips_leading_space })
    }

    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Texts of the added tokens.
    pub fn added_tokens(&self) -> Vec<&str> {
        self.added.iter().map(String::as_str).collect()
    }

    pub fn strips_leading_space(&self) -> bool {
        self.strips_leading_space
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<i32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, add_special_tokens)
            .map_err(|e| TextError::invalid("text", e))?;
        Ok(encoding.get_ids().iter().map(|id| *id as i32).collect())
    }
}

impl Decoding {
    fn add(&mut self, decoder: &Value) -> Result<()> {
        let kind = decoder["type"].as_str().unwrap_or_default();
        match kind {
            "ByteLevel" => self.byte_level = true,
            "ByteFallback" => self.byte_fallback = true,
            "Fuse" => {}
            "Metaspace" => {
                let mark = decoder["replacement"].as_str().unwrap_or("\u{2581}");
                self.replacements.push((mark.to_string(), " ".to_string()));
                self.strips_leading_space |= decoder["prepend_scheme"] != "never";
            }
            "Replace" if decoder["pattern"]["String"].is_string() => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
                let pattern = text(&decoder["pattern"]["String"]);
                self.replacements.push((pattern, text(&decoder["content"])));
            }
            "Strip" if decoder["content"] == " " && decoder["stop"] == 0 => {
                self.strips_leading_space |= decoder["start"] != 0;
            }
            "Sequence" => {
                for part in decoder["decoders"].as_array().into_iter().flatten() {
                    self.add(part)?;
                }
            }
            _ => {
                return Err(TextError::unimplemented(
                    "decoder",
                    format!("expected a byte-level or SentencePiece decoder, got {kind}"),
                ))
            }
        }
        Ok(())
    }

    /// Appends the bytes that the token `name` stands for.
    fn append(&self, name: &str, alphabet: &HashMap<char, u8>, arena: &mut Vec<u8>) {
        if self.byte_level {
            let bytes: Option<Vec<u8>> = name.chars().map(|c| alphabet.get(&c).copied()).collect();
            arena.extend(bytes.unwrap_or_else(|| name.as_bytes().to_vec()));
            return;
        }
        if self.byte_fallback {
            let digits = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            if let Some(digits) = digits.filter(|digits| digits.len() == 2) {
                if let Ok(byte) = u8::from_str_radix(digits, 16) {
                    arena.push(byte);
                    return;
                }
            }
        }
        let mut text = name.to_string();
        for (pattern, content) in &self.replacements {
            text = text.replace(pattern.as_str(), content);
        }
        arena.extend_from_slice(text.as_bytes());
    }
}

/// GPT-2's alphabet: printable Latin-1 bytes are themselves, the other 68 are
/// U+0100 and up in order.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut alphabet = HashMap::new();
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte.into() } else { next };
        next += u32::from(!printable);
        alphabet.extend(char::from_u32(code).map(|c| (c, byte)));
    }
    alphabet
}
