// C interface of the Rust library shoal_text: a tokeniser (crate tokenizers)
// and a chat template (crate minijinja). Only model_text.cc includes it.
//
// No call panics or throws across the boundary. Texts are UTF-8 without a
// terminating zero; what the library hands out is freed by its own functions.
// A ShoalText may be read by many threads once it is set up.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ShoalText ShoalText;

// Borrowed bytes; `data` may be null when `size` is 0.
typedef struct {
  const uint8_t* data;
  size_t size;
} ShoalBytes;

enum {
  SHOAL_TEXT_OK = 0,
  SHOAL_TEXT_INVALID = 1,
  SHOAL_TEXT_UNIMPLEMENTED = 2,
  SHOAL_TEXT_INTERNAL = 3,  // a panic inside the library
};

// `field` and `message` are null when `code` is OK. Free with
// shoal_text_free_status().
typedef struct {
  int32_t code;
  char* field;  // what part of the input is at fault: "decoder"; may be empty
  char* message;
} ShoalTextStatus;

enum {
  SHOAL_TOKEN_ADDED = 1,    // recognised in text as a whole
  SHOAL_TOKEN_SPECIAL = 2,  // left out by "skip special tokens"
};

// One entry of the token table.
typedef struct {
  ShoalBytes bytes;  // what the token stands for
  uint32_t flags;
} ShoalToken;

// A GGUF's tokenizer.ggml.* values.
typedef struct {
  ShoalBytes model;          // "gpt2" or "llama"
  ShoalBytes pre;            // "smollm", ...
  const ShoalBytes* tokens;  // [token_count]
  size_t token_count;
  const ShoalBytes* merges;  // [merge_count] "A B"
  size_t merge_count;
  const int32_t* types;  // [token_count] or null: all normal
  const float* scores;   // [token_count] or null
  int64_t unknown_id;    // -1: none
  int32_t add_space_prefix;
} ShoalGgufVocabulary;

// JSON texts of ChatTemplateInput; an empty one is absent.
typedef struct {
  ShoalBytes messages;
  ShoalBytes tools;
  ShoalBytes kwargs;
  int32_t add_generation_prompt;
} ShoalChat;

// Both copy what they keep. `*out` is set only when OK.
ShoalTextStatus shoal_text_from_json(ShoalBytes json, ShoalText** out);
ShoalTextStatus shoal_text_from_gguf(const ShoalGgufVocabulary* vocabulary,
                                     ShoalText** out);
void shoal_text_free(ShoalText* text);
void shoal_text_free_status(ShoalTextStatus status);

// Compiles a chat template; the variables are absent when empty.
ShoalTextStatus shoal_text_set_template(ShoalText* text, ShoalBytes source,
                                        ShoalBytes bos_token,
                                        ShoalBytes eos_token);

// The token table, index = id; valid as long as `text`.
const ShoalToken* shoal_text_tokens(const ShoalText* text, size_t* count);
// Whether decoding drops one space at the start of the text.
int32_t shoal_text_strips_leading_space(const ShoalText* text);

// `*ids` is freed by shoal_text_free_ids().
ShoalTextStatus shoal_text_encode(const ShoalText* text, ShoalBytes input,
                                  int32_t add_special_tokens, int32_t** ids,
                                  size_t* count);
void shoal_text_free_ids(int32_t* ids, size_t count);

// The rendered chat. U+FDD0 stands inside every added token that came from the
// input rather than from the template. Freed by shoal_text_free_text().
ShoalTextStatus shoal_text_render(const ShoalText* text, const ShoalChat* chat,
                                  uint8_t** output, size_t* size);
// Input of a prompt that is not rendered here: `json`, with that marker put in
// as shoal_text_render() does. `field` is "messages", "tools" or
// "chat_template_kwargs". Freed by shoal_text_free_text().
ShoalTextStatus shoal_text_mark(const ShoalText* text, ShoalBytes field,
                                ShoalBytes json, uint8_t** output,
                                size_t* size);
void shoal_text_free_text(uint8_t* output, size_t size);

#ifdef __cplusplus
}
#endif
