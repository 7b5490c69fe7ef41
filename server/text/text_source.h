// What a model's files say about text, read into the Rust library's form: the
// tokeniser with its chat template, and what goes with them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loading/gguf.h"
#include "server/text/rust/shoal_text.h"

namespace shoal {

struct FreeShoalText {
  void operator()(ShoalText* text) const { shoal_text_free(text); }
};

struct TextSource {
  std::unique_ptr<ShoalText, FreeShoalText> text;
  bool has_chat_template = false;
  bool template_thinks = false;  // it knows think tags
  // Texts of these tokens; empty: the model has none.
  std::string bos_token;
  std::string eos_token;
  // Whether Encode() adds them beyond what tokenizer.json itself does.
  bool add_bos = false;
  bool add_eos = false;
  // As the files name them; not yet checked against the vocabulary.
  std::vector<int64_t> end_token_ids;
};

inline ShoalBytes ToShoalBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Frees `status`. `file` empty: a complaint about a request, in the library's
// own words; otherwise about a model file, in the form of load_error.h.
absl::Status TakeStatus(ShoalTextStatus status, std::string_view file);

// tokenizer.json with tokenizer_config.json, generation_config.json and
// chat_template.jinja where they exist. Errors as ModelText::Load().
absl::StatusOr<TextSource> ReadFolderText(const std::string& folder);

// The tokenizer.* keys of a GGUF. Errors as ModelText::Load().
absl::StatusOr<TextSource> ReadGgufText(const GgufFile& gguf);

}  // namespace shoal
