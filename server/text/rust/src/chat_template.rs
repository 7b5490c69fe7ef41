//! A model's chat template, rendered as transformers renders it, with bounds on
//! work and output, and with the input's control tokens broken by a marker.

use std::collections::HashMap;
use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::Value as Json;

use crate::markers::{Markers, MARKER};
use crate::{Result, TextError};

/// Steps of a rendering; data counts too, 64 bytes a step.
const FUEL: u64 = 4_000_000;
/// Bytes of output beyond those of the input.
const MAX_OUTPUT: usize = 4 << 20;

pub struct ChatInput<'a> {
    pub messages: &'a str,
    /// Empty: none.
    pub tools: &'a str,
    /// Empty: none.
    pub kwargs: &'a str,
    pub add_generation_prompt: bool,
}

pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| TextError::invalid("chat_template", e))?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, state, value| match value.kind() {
            // Python's spelling.
            ValueKind::Bool => {
                out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from)
            }
            ValueKind::None => out.write_str("None").map_err(Error::from),
            _ => minijinja::escape_formatter(out, state, value),
        });
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned("chat", without_generation_tags(source))
            .map_err(|e| TextError::invalid("chat_template", describe(&e)))?;
        Ok(ChatTemplate {
            environment,
            bos_token: bos.to_string(),
            eos_token: eos.to_string(),
        })
    }

    pub fn render(&self, input: &ChatInput, markers: &Markers) -> Result<String> {
        let mut variables: HashMap<String, Value> = HashMap::new();
        for (name, token) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)] {
            if !token.is_empty() {
                variables.insert(name.to_string(), Value::from(token.as_str()));
            }
        }
        let mut set = |name: &str, value: Json| {
            variables.insert(name.to_string(), Value::from(Serde(value)));
        };
        if !input.kwargs.is_empty() {
            match markers.parse("chat_template_kwargs", input.kwargs)? {
                Json::Object(kwargs) => kwargs.into_iter().for_each(|(name, v)| set(&name, v)),
                _ => return Err(TextError::invalid("chat_template_kwargs", "expected an object")),
            }
        }
        set("messages", markers.parse("messages", input.messages)?);
        // Absent tools are None, as in transformers.
        let tools = match input.tools {
            "" => Json::Null,
            tools => markers.parse("tools", tools)?,
        };
        set("tools", tools);
        set("add_generation_prompt", Json::Bool(input.add_generation_prompt));

        let limit = MAX_OUTPUT + input.messages.len() + input.tools.len();
        let mut output = Limited { bytes: Vec::new(), limit };
        let template = self.environment.get_template("chat");
        template
            .and_then(|template| template.render_captured_to(variables, &mut output).map(|_| ()))
            .map_err(|e| TextError::invalid("chat_template", describe(&e)))?;
        String::from_utf8(output.bytes).map_err(|e| TextError::invalid("chat_template", e))
    }

}

/// A buffer that refuses to grow without bound.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Limited {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > self.limit {
            return Err(io::Error::other(format!("output is over {} bytes", self.limit)));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line: the template's own words where it raised an exception.
fn describe(error: &Error) -> String {
    let text = match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_string(),
        _ => error.to_string(),
    };
    text.replace(MARKER, "").replace(['\n', '\r'], " ")
}

/// transformers' {% generation %} tags only mark ranges for training.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + length];
        let word = tag[2..].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replaced = match word {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_string(),
        };
        out.push_str(&rest[..start]);
        out.push_str(&replaced);
        rest = &rest[start + length..];
    }
    out + rest
}

fn raise_exception(message: String) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time through C's strftime, as Python does it.
fn strftime_now(format: String) -> std::result::Result<String, Error> {
    let format = std::ffi::CString::new(format)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
    let mut buffer = [0u8; 256];
    // SAFETY: the pointers are to locals, and strftime() stays in the buffer.
    let size = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut parts);
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &parts)
    };
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

/// json.dumps(value, ensure_ascii=False): ", " and ": " unless indented.
fn to_json(
    state: &State,
    value: &Value,
    indent: Option<usize>,
    kwargs: Kwargs,
) -> std::result::Result<Value, Error> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::InvalidOperation, e.to_string());
    let indent = indent.or(kwargs.get::<Option<usize>>("indent")?);
    let sorted = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.get::<Option<bool>>("ensure_ascii")?;
    kwargs.get::<Option<Value>>("separators")?;
    kwargs.assert_all_used()?;
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sorted {
        json.sort_all_objects();
    }
    let mut bytes = Vec::new();
    match indent {
        Some(width) => {
            let width = " ".repeat(width.min(16));
            let style = PrettyFormatter::with_indent(width.as_bytes());
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, style))
        }
        None => json.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced)),
    }
    .map_err(failed)?;
    state.consume_fuel(bytes.len() as u64 / 16)?;
    String::from_utf8(bytes)
        .map(Value::from)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: Write + ?Sized>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }
    fn begin_object_key<W: Write + ?Sized>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }
    fn begin_object_value<W: Write + ?Sized>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}
