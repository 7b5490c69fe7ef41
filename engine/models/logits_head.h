// LogitsHead is the end of every model: hidden states to logits, which are read
// on the host, or to tokens.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "engine/models/step_inputs.h"
#include "engine/models/weight_loader.h"
#include "kernels/kernel_table.h"

namespace shoal {

class LogitsHead {
 public:
  // "lm_head.weight", or the embedding in models that tie them; errors stay in
  // the loader. `max_rows`: of Draw(). `kernels` must outlive it.
  LogitsHead(KernelTable& kernels, int64_t max_rows, WeightLoader& loader);

  // in [count, hidden_size] in the table's memory, out [count, vocab_size] in
  // the host's. Waits for the device. Internal on a device fault.
  absl::Status Run(const float* in, int64_t count, float* out);
  // Queues the draw of a token from each row: int32 [count], as
  // SampleParams::out, which alone cross from the device. `draws`: one a row,
  // nullptr if all are greedy.
  std::unique_ptr<DeviceFetch> Draw(const float* in, int64_t count,
                                    const TokenDraw* draws);
  // Puts what was drawn last into a step's token_ids, where inputs want it.
  void PutDrawn(const StepInputs& inputs);
  int64_t workspace_bytes() const {
    return rows_ == nullptr
               ? 0
               : rows_->bytes() + draws_->bytes() + tokens_->bytes();
  }

 private:
  void Multiply(const float* in, int64_t count, float* out);

  KernelTable& kernels_;
  const int64_t rows_at_a_time_;
  std::unique_ptr<PackedMatrix> weight_;
  std::unique_ptr<DeviceBuffer> rows_;            // of logits, rows_at_a_time_
  std::unique_ptr<DeviceBuffer> draws_, tokens_;  // of max_rows
};

}  // namespace shoal
