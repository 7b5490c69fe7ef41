//! A tokeniser built from a GGUF's metadata: byte-level BPE ("gpt2", whose
//! pre-tokeniser goes by name) or SentencePiece BPE ("llama", whose merges
//! follow from the scores).

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BpeBuilder, BPE};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence, NFC};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::tokenizer::TextTokenizer;
use crate::{Result, TextError};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const LLAMA_BPE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK_V3: &[&str] = &[
    r"\p{N}{1,3}",
    r"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
];
/// Ideographs, everything from Samaritan to kana, and Hangul.
const DEEPSEEK_ASIAN: &str = r"[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+";
const DEEPSEEK_LLM: &[&str] = &[
    r"[\r\n]",
    // Cased letters; the published class lists them without Georgian's.
    r"\s?[\p{Lu}\p{Ll}\p{Lt}&&[^\u10D0-\u10FF]]+",
    r"\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+",
    r"\s+$",
    DEEPSEEK_ASIAN,
    r"\p{N}+",
];
const DEEPSEEK_CODER: &[&str] = &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_ASIAN, r"\p{N}"];

pub struct GgufVocabulary<'a> {
    pub model: &'a str,
    pub pre: &'a str,
    pub tokens: Vec<&'a str>,
    pub merges: Vec<&'a str>,
    /// Empty: all normal.
    pub types: &'a [i32],
    pub scores: &'a [f32],
    pub unknown_id: Option<usize>,
    pub add_space_prefix: bool,
}

impl GgufVocabulary<'_> {
    pub fn build(&self) -> Result<TextTokenizer> {
        let mut tokenizer = match self.model {
            "gpt2" => self.byte_level()?,
            "llama" => self.sentence_piece()?,
            other => {
                return Err(TextError::unimplemented(
                    "tokenizer.ggml.model",
                    format!("expected gpt2 or llama, got {other:?}"),
                ))
            }
        };
        let (mut special, mut plain) = (Vec::new(), Vec::new());
        for (id, token) in self.tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
            let added = |special| AddedToken::from(*token, special).normalized(false);
            match self.kind(id) {
                CONTROL | UNKNOWN => special.push(added(true)),
                USER_DEFINED => plain.push(added(false)),
                _ => {}
            }
        }
        let failed = |e| TextError::invalid("tokenizer.ggml.tokens", e);
        tokenizer.add_special_tokens(special).map_err(failed)?;
        tokenizer.add_tokens(plain).map_err(failed)?;
        let names = self.tokens.iter().enumerate().map(|(id, token)| (id, token.to_string()));
        TextTokenizer::new(tokenizer, names)
    }

    fn kind(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or(NORMAL)
    }

    /// Of equal tokens the first has the id.
    fn ids(&self) -> HashMap<&str, u32> {
        let mut ids = HashMap::new();
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(*token).or_insert(id as u32);
        }
        ids
    }

    fn bpe(&self, merges: Vec<(String, String)>) -> BpeBuilder {
        let ids = self.ids();
        let ids = ids.into_iter().map(|(token, id)| (token.to_string(), id));
        let ids: HashMap<String, u32> = ids.collect();
        BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
    }

    fn byte_level(&self) -> Result<Tokenizer> {
        let (patterns, nfc): (&[&str], bool) = match self.pre {
            "smollm" => (&[r"\p{N}", GPT2], false),
            "gpt-2" | "default" => (&[GPT2], false),
            "llama-bpe" | "llama3" | "llama-v3" => (&[LLAMA_BPE], false),
            "qwen2" => (&[QWEN2], true),
            "deepseek-r1-qwen" => (&[QWEN2], false),
            "deepseek-v3" => (DEEPSEEK_V3, false),
            "deepseek-llm" => (DEEPSEEK_LLM, false),
            "deepseek-coder" => (DEEPSEEK_CODER, false),
            other => {
                return Err(TextError::unimplemented(
                    "tokenizer.ggml.pre",
                    format!("expected a known pre-tokeniser, got {other:?}"),
                ))
            }
        };
        let mut merges = Vec::with_capacity(self.merges.len());
        for (i, merge) in self.merges.iter().enumerate() {
            let (left, right) = merge.split_once(' ').ok_or_else(|| {
                let field = format!("tokenizer.ggml.merges[{i}]");
                TextError::invalid(&field, format!("expected two tokens, got {merge:?}"))
            })?;
            merges.push((left.to_string(), right.to_string()));
        }
        let model = self
            .bpe(merges)
            .ignore_merges(patterns[0] == LLAMA_BPE)
            .build()
            .map_err(|e| TextError::invalid("tokenizer.ggml.merges", e))?;
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        for pattern in patterns {
            let pattern = SplitPattern::Regex(pattern.to_string());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|e| TextError::invalid("tokenizer.ggml.pre", e))?;
            steps.push(split.into());
        }
        let bytes = ByteLevel::new(false, false, false);
        steps.push(bytes.into());
        let mut tokenizer = Tokenizer::new(model);
        if nfc {
            tokenizer
                .with_normalizer(Some(NFC))
                .map_err(|e| TextError::invalid("tokenizer.ggml.pre", e))?;
        }
        tokenizer.with_pre_tokenizer(Some(PreSequence::new(steps)));
        tokenizer.with_decoder(Some(bytes));
        Ok(tokenizer)
    }

    fn sentence_piece(&self) -> Result<Tokenizer> {
        if self.scores.is_empty() {
            return Err(TextError::invalid("tokenizer.ggml.scores", "expected scores, got none"));
        }
        let failed = |e| TextError::invalid("tokenizer.ggml.tokens", e);
        let unknown = self.unknown_id.and_then(|id| self.tokens.get(id));
        let mut builder = self.bpe(self.merges_by_score()).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = unknown {
            builder = builder.unk_token(unknown.to_string());
        }
        let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
        if self.add_space_prefix {
            normalizers.push(Prepend::new("\u{2581}".to_string()).into());
        }
        normalizers.push(Replace::new(" ", "\u{2581}").map_err(failed)?.into());
        let mut decoders: Vec<DecoderWrapper> = vec![
            Replace::new("\u{2581}", " ").map_err(failed)?.into(),
            ByteFallback::new().into(),
            Fuse::new().into(),
        ];
        if self.add_space_prefix {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        let mut tokenizer = Tokenizer::new(builder.build().map_err(failed)?);
        tokenizer.with_normalizer(Some(Sequence::new(normalizers))).map_err(failed)?;
        tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
        Ok(tokenizer)
    }

    /// SentencePiece merges the neighbours that form the token with the highest
    /// score; as a list of merges, that is every way to split each token into
    /// two, ordered by the token's score.
    fn merges_by_score(&self) -> Vec<(String, String)> {
        let ids = self.ids();
        let mut merges: Vec<(f32, u32, u32)> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if !matches!(self.kind(id), NORMAL | USER_DEFINED) {
                continue;
            }
            let score = self.scores.get(id).copied().unwrap_or(f32::MIN);
            for (at, _) in token.char_indices().skip(1) {
                if let (Some(left), Some(right)) = (ids.get(&token[..at]), ids.get(&token[at..])) {
                    merges.push((score, *left, *right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let text = |id: u32| self.tokens[id as usize].to_string();
        merges.into_iter().map(|(_, left, right)| (text(left), text(right))).collect()
    }
}
