// FlashInfer's kernels for attention of a decode step, the peer of Shoal's.
// Source: the headers of flashinfer-python 0.7.2.post1.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

namespace shoal {

// One token of each of num_seqs sequences of `context` tokens, of which blocks
// hold block_size. bf16; device memory, rows without gaps.
struct PeerAttention {
  const uint16_t* q = nullptr;  // [num_seqs, num_heads, dim]
  // [blocks, block_size, kv_heads, dim]; of a latent row the values are its
  // first 512 elements, and `v` is not read.
  const uint16_t* k = nullptr;
  const uint16_t* v = nullptr;
  const int32_t* block_tables = nullptr;  // [num_seqs, blocks of a sequence]
  uint16_t* out = nullptr;                // [num_seqs, num_heads, v_dim]
  int32_t num_seqs = 0;
  int32_t context = 0;
  int32_t block_size = 0;
  int32_t num_heads = 0;
  float scale = 0;
};

// A step that is planned already, as it would be once for all of its layers.
class FlashInferStep {
 public:
  virtual ~FlashInferStep() = default;
  // Queues it on the default stream.
  virtual cudaError_t Run() = 0;
};

// nullptr after an error of the device. Four heads share one of keys and values
// of 128.
std::unique_ptr<FlashInferStep> PlanFlashInferGqa(const PeerAttention& work);
// All heads share rows of 512 and 64 for the rotation (absorbed MLA); for
// Hopper.
std::unique_ptr<FlashInferStep> PlanFlashInferMla(const PeerAttention& work);

}  // namespace shoal
