// Logits of whole prompts, for comparing a model with another implementation
// of it. Files are safetensors, i counts from 0:
//
//   in   prompt{i}.input_ids  I64 [n]
//   out  prompt{i}.logits     F32 [n, vocab_size], of every position
//        prompt{i}.greedy     I64 [greedy], the most likely tokens that follow
//
// Other tensors of the input are not looked at, so golden files can be used.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/models/decoder.h"
#include "kernels/kernel_table.h"

namespace shoal {

// The prompts of a file. InvalidArgument naming the file and the tensor: none,
// a gap in the numbers, another type or rank, no token, an id outside the
// vocabulary; or as SafetensorsFile::Open().
absl::StatusOr<std::vector<std::vector<int32_t>>> ReadPrompts(
    const std::string& path, int64_t vocab_size);

struct LogitsOptions {
  // Most prompt tokens of a sequence in a step. REQUIRES: > 0.
  int32_t chunk = 512;
  int32_t greedy = 0;  // tokens to generate; 0: none, and no tensor of them
  // As the decoder was made with. REQUIRES: > 0.
  int32_t max_tokens_per_step = 512;
};

// Runs the prompts, several at once, and writes `path` row by row: memory is
// that of the model, the cache of the prompts that run and a few rows.
// InvalidArgument naming the prompt that is longer than the model's context, or
// the file that cannot be written; else the decoder's errors.
absl::Status WriteLogits(const std::vector<std::vector<int32_t>>& prompts,
                         const LogitsOptions& options, Decoder& decoder,
                         KernelTable& kernels, const std::string& path);

}  // namespace shoal
