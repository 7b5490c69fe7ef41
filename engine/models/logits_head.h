// LogitsHead is the end of every model: hidden states to logits, which are read
// on the host.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "engine/models/weight_loader.h"
#include "kernels/kernel_table.h"

namespace shoal {

class LogitsHead {
 public:
  // "lm_head.weight", or the embedding in models that tie them; errors stay in
  // the loader. `kernels` must outlive it.
  LogitsHead(KernelTable& kernels, WeightLoader& loader);

  // in [count, hidden_size] in the table's memory, out [count, vocab_size] in
  // the host's. Waits for the device. Internal on a device fault.
  absl::Status Run(const float* in, int64_t count, float* out);
  // The token of the largest logit of each row, as ArgMaxParams has it; only
  // these cross from the device. `logits`: memory for [count, vocab_size] where
  // the table's is the host's, else not looked at. Else as Run().
  absl::Status Greedy(const float* in, int64_t count, float* logits,
                      int32_t* tokens);
  int64_t workspace_bytes() const {
    return rows_ == nullptr ? 0 : rows_->bytes() + tokens_->bytes();
  }

 private:
  void Multiply(const float* in, int64_t count, float* out);

  KernelTable& kernels_;
  std::unique_ptr<PackedMatrix> weight_;
  // Rows on their way to the host; nullptr where they are written there.
  std::unique_ptr<DeviceBuffer> rows_;
  std::unique_ptr<DeviceBuffer> tokens_;  // of these rows
};

}  // namespace shoal
