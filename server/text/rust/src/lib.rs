//! The C interface declared in shoal_text.h. Each entry turns its pointers into
//! Rust values, catches panics (of the libraries on damaged input) and returns
//! a status whose strings Rust owns.

mod chat_template;
mod gguf_tokenizer;
mod markers;
mod tokenizer;

use std::ffi::{c_char, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use chat_template::{ChatInput, ChatTemplate};
use gguf_tokenizer::GgufVocabulary;
use markers::Markers;
use tokenizer::{TextTokenizer, Token};

/// Why an input was refused.
#[derive(Debug)]
pub struct TextError {
    code: i32,
    field: String,
    message: String,
}

pub type Result<T> = std::result::Result<T, TextError>;

impl TextError {
    pub fn invalid(field: &str, message: impl ToString) -> Self {
        Self::new(1, field, message)
    }
    pub fn unimplemented(field: &str, message: impl ToString) -> Self {
        Self::new(2, field, message)
    }
    fn new(code: i32, field: &str, message: impl ToString) -> Self {
        TextError { code, field: field.to_string(), message: message.to_string() }
    }
}

pub struct ShoalText {
    tokenizer: TextTokenizer,
    markers: Markers,
    template: Option<ChatTemplate>,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShoalBytes {
    data: *const u8,
    size: usize,
}

#[repr(C)]
pub struct ShoalTextStatus {
    code: i32,
    field: *mut c_char,
    message: *mut c_char,
}

#[repr(C)]
pub struct ShoalGgufVocabulary {
    model: ShoalBytes,
    pre: ShoalBytes,
    tokens: *const ShoalBytes,
    token_count: usize,
    merges: *const ShoalBytes,
    merge_count: usize,
    types: *const i32,
    scores: *const f32,
    unknown_id: i64,
    add_space_prefix: i32,
}

#[repr(C)]
pub struct ShoalChat {
    messages: ShoalBytes,
    tools: ShoalBytes,
    kwargs: ShoalBytes,
    add_generation_prompt: i32,
}

impl ShoalBytes {
    pub fn new(bytes: &[u8]) -> Self {
        ShoalBytes { data: bytes.as_ptr(), size: bytes.len() }
    }

    unsafe fn bytes<'a>(&self) -> &'a [u8] {
        slice(self.data, self.size)
    }

    unsafe fn text<'a>(&self, field: &str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()).map_err(|e| {
            TextError::invalid(field, format!("not UTF-8 at byte {}", e.valid_up_to()))
        })
    }
}

unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if data.is_null() {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

unsafe fn texts<'a>(list: *const ShoalBytes, count: usize, field: &str) -> Result<Vec<&'a str>> {
    slice(list, count)
        .iter()
        .enumerate()
        .map(|(i, bytes)| bytes.text(&format!("{field}[{i}]")))
        .collect()
}

/// A C string; zeros inside, which only damaged input has, are dropped.
fn c_string(text: &str) -> *mut c_char {
    let bytes = text.bytes().filter(|b| *b != 0).collect::<Vec<u8>>();
    CString::new(bytes).unwrap_or_default().into_raw()
}

/// Runs `call`, turning errors and panics into a status.
fn guard(call: impl FnOnce() -> Result<()>) -> ShoalTextStatus {
    // The panic is reported to the caller, so it is not printed as well.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let error = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => {
            let null = std::ptr::null_mut();
            return ShoalTextStatus { code: 0, field: null, message: null };
        }
        Ok(Err(error)) => error,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("panic");
            TextError::new(3, "", text)
        }
    };
    ShoalTextStatus {
        code: error.code,
        field: c_string(&error.field),
        message: c_string(&error.message),
    }
}

unsafe fn hand_out(tokenizer: TextTokenizer, out: *mut *mut ShoalText) -> Result<()> {
    let markers = Markers::new(&tokenizer.added_tokens())?;
    *out = Box::into_raw(Box::new(ShoalText { tokenizer, markers, template: None }));
    Ok(())
}

/// # Safety
/// As shoal_text.h says; the same holds for every function below.
#[no_mangle]
pub unsafe extern "C" fn shoal_text_from_json(
    json: ShoalBytes,
    out: *mut *mut ShoalText,
) -> ShoalTextStatus {
    guard(|| hand_out(TextTokenizer::from_json(json.bytes())?, out))
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_from_gguf(
    vocabulary: *const ShoalGgufVocabulary,
    out: *mut *mut ShoalText,
) -> ShoalTextStatus {
    guard(|| {
        let c = &*vocabulary;
        let count = c.token_count;
        let vocabulary = GgufVocabulary {
            model: c.model.text("tokenizer.ggml.model")?,
            pre: c.pre.text("tokenizer.ggml.pre")?,
            tokens: texts(c.tokens, count, "tokenizer.ggml.tokens")?,
            merges: texts(c.merges, c.merge_count, "tokenizer.ggml.merges")?,
            types: slice(c.types, count),
            scores: slice(c.scores, count),
            unknown_id: usize::try_from(c.unknown_id).ok(),
            add_space_prefix: c.add_space_prefix != 0,
        };
        hand_out(vocabulary.build()?, out)
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_free(text: *mut ShoalText) {
    if !text.is_null() {
        drop(Box::from_raw(text));
    }
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_free_status(status: ShoalTextStatus) {
    for text in [status.field, status.message] {
        if !text.is_null() {
            drop(CString::from_raw(text));
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_set_template(
    text: *mut ShoalText,
    source: ShoalBytes,
    bos_token: ShoalBytes,
    eos_token: ShoalBytes,
) -> ShoalTextStatus {
    guard(|| {
        let text = &mut *text;
        text.template = Some(ChatTemplate::new(
            source.text("chat_template")?,
            bos_token.text("bos_token")?,
            eos_token.text("eos_token")?,
        )?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_tokens(
    text: *const ShoalText,
    count: *mut usize,
) -> *const Token {
    let tokens = (*text).tokenizer.tokens();
    *count = tokens.len();
    tokens.as_ptr()
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_strips_leading_space(text: *const ShoalText) -> i32 {
    (*text).tokenizer.strips_leading_space().into()
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_encode(
    text: *const ShoalText,
    input: ShoalBytes,
    add_special_tokens: i32,
    ids: *mut *mut i32,
    count: *mut usize,
) -> ShoalTextStatus {
    guard(|| {
        let encoded = (*text).tokenizer.encode(input.text("text")?, add_special_tokens != 0)?;
        (*ids, *count) = leak(encoded);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_free_ids(ids: *mut i32, count: usize) {
    reclaim(ids, count);
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_render(
    text: *const ShoalText,
    chat: *const ShoalChat,
    output: *mut *mut u8,
    size: *mut usize,
) -> ShoalTextStatus {
    guard(|| {
        let chat = &*chat;
        let template = (*text).template.as_ref();
        let template =
            template.ok_or_else(|| TextError::invalid("chat_template", "there is none"))?;
        let input = ChatInput {
            messages: chat.messages.text("messages")?,
            tools: chat.tools.text("tools")?,
            kwargs: chat.kwargs.text("chat_template_kwargs")?,
            add_generation_prompt: chat.add_generation_prompt != 0,
        };
        let rendered = template.render(&input, &(*text).markers)?;
        (*output, *size) = leak(rendered.into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_mark(
    text: *const ShoalText,
    field: ShoalBytes,
    json: ShoalBytes,
    output: *mut *mut u8,
    size: *mut usize,
) -> ShoalTextStatus {
    guard(|| {
        let field = field.text("field")?;
        let marked = (*text).markers.parse(field, json.text(field)?)?;
        (*output, *size) = leak(marked.to_string().into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_text_free_text(output: *mut u8, size: usize) {
    reclaim(output, size);
}

fn leak<T>(list: Vec<T>) -> (*mut T, usize) {
    let list = Box::leak(list.into_boxed_slice());
    (list.as_mut_ptr(), list.len())
}

unsafe fn reclaim<T>(data: *mut T, count: usize) {
    if !data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, count)));
    }
}
