// Takes a model folder or GGUF file the whole way that a server takes it:
// files, tokenizer and chat template, weights, a forward pass in two chunks, a
// choice of tokens. For files that somebody damaged: whatever is wrong must
// come out as a status in the form of engine/loading/load_error.h.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/kernel_table.h"

namespace shoal {

// What came of one probe.
struct ProbeResult {
  absl::Status status;  // the first error
  bool loaded = false;  // the files made a model
  bool ran = false;     // and it computed logits, finite or not
};

// `with_text`: the tokenizer too, if it has one.
ProbeResult ProbeModel(const std::string& path, bool with_text,
                       KernelTable& kernels);

// Whether an error about the files below `folder` is in its form: one line that
// names a file, a field, expected and got, or a file that cannot be opened.
bool IsWellFormed(const absl::Status& status, const std::string& folder);

}  // namespace shoal
