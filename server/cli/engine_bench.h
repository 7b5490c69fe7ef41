// Measures the engine's forward passes alone: prompts are prefilled one after
// another and then decoded together, greedily, over random tokens.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/models/decoder.h"
#include "kernels/kernel_table.h"

namespace shoal {

struct EngineBenchCase {
  int batch = 1;            // sequences
  int prompt = 128;         // tokens of each
  int generate = 64;        // tokens decoded after each
  bool no_prefill = false;  // the prompt is not computed; its cache holds zeros
};

struct EngineBenchResult {
  double prefill_tokens_per_second = 0;  // 0 without prefill
  double decode_tokens_per_second = 0;   // 0 if fewer than two were generated
  // Mean of the different experts that the tokens of a decode step chose in a
  // layer: 0 without experts.
  double experts_per_step = 0;
};

// ResourceExhausted if the table has no memory for the cache; Internal on a
// device fault. REQUIRES: batch <= max_tokens, the tokens of a step that the
// decoder was made for.
absl::StatusOr<EngineBenchResult> RunEngineBench(Decoder& decoder,
                                                 KernelTable& kernels,
                                                 int32_t max_tokens,
                                                 const EngineBenchCase& work);

}  // namespace shoal
