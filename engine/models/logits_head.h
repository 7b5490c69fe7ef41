// LogitsHead is the end of every model: hidden states to logits, which are read
// on the host, or to tokens.
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
  // A token of each row, as SampleParams::out; only these cross from the
  // device. `draws`: one a row, nullptr if all are greedy. Else as Run().
  absl::Status Sample(const float* in, int64_t count, const TokenDraw* draws,
                      int32_t* tokens);
  int64_t workspace_bytes() const {
    return rows_ == nullptr
               ? 0
               : rows_->bytes() + draws_->bytes() + tokens_->bytes();
  }

 private:
  void Multiply(const float* in, int64_t count, float* out);

  KernelTable& kernels_;
  const int64_t max_rows_;
  std::unique_ptr<PackedMatrix> weight_;
  std::unique_ptr<DeviceBuffer> rows_;            // of logits, max_rows_
  std::unique_ptr<DeviceBuffer> draws_, tokens_;  // of these rows
};

}  // namespace shoal
