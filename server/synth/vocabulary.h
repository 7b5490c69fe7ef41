// The tokenizer of synthetic models: byte-level, without merges, so that any
// text can be tokenised and any token shown. Ids, whatever the model:
//
//   0 begin of text   1 end of text   2 padding   3 user   4 assistant
//   5 to 260          the bytes, in the byte-level alphabet's order
//   261 and up        words " t261", " t262", ..., which no text becomes
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/synth/gguf_writer.h"

namespace shoal {

inline constexpr int64_t kLeastVocabulary = 261;

// Writes tokenizer.json and tokenizer_config.json.
// REQUIRES: vocab_size >= kLeastVocabulary; so below.
absl::Status WriteTokenizerFiles(const std::string& folder, int64_t vocab_size);

// The same as GGUF metadata.
void AddTokenizerMetadata(int64_t vocab_size, GgufMetadataWriter* metadata);

}  // namespace shoal
