#include "engine/models/logits_head.h"

#include <algorithm>

namespace shoal {
namespace {

// Rows computed at a time. A device has bandwidth to read the weights for 64 of
// them in the time of one; on the CPU 32 are bound by products.
constexpr int64_t kDeviceRows = 64;
constexpr int64_t kHostRows = 32;
constexpr auto kDrawBytes = static_cast<int64_t>(sizeof(TokenDraw));
constexpr auto kTokenBytes = static_cast<int64_t>(sizeof(int32_t));
constexpr auto kFloatBytes = static_cast<int64_t>(sizeof(float));

}  // namespace

LogitsHead::LogitsHead(KernelTable& kernels, int64_t max_rows,
                       WeightLoader& loader)
    : kernels_(kernels),
      rows_at_a_time_(kernels.memory_is_host() ? kHostRows : kDeviceRows),
      weight_(loader.Matrix(loader.Contains("lm_head.weight")
                                ? "lm_head.weight"
                                : "model.embed_tokens.weight")) {
  if (weight_ == nullptr) return;
  rows_ = loader.Allocate(
      "logits", rows_at_a_time_ * weight_->out_features() * kFloatBytes);
  draws_ = loader.Allocate("draws", max_rows * kDrawBytes);
  tokens_ = loader.Allocate("tokens", max_rows * kTokenBytes);
}

void LogitsHead::Multiply(const float* in, int64_t count, float* out) {
  const LinearPart part[] = {{weight_.get(), nullptr, out}};
  kernels_.Linear({in, count, weight_->in_features(), part});
}

absl::Status LogitsHead::Run(const float* in, int64_t count, float* out) {
  if (kernels_.memory_is_host()) {
    Multiply(in, count, out);
    return kernels_.Synchronize();
  }
  const int64_t vocab_size = weight_->out_features();
  for (int64_t first = 0; first < count; first += rows_at_a_time_) {
    const int64_t rows = std::min(rows_at_a_time_, count - first);
    Multiply(in + first * weight_->in_features(), rows,
             static_cast<float*>(rows_->data()));
    absl::Status status =
        kernels_.Download(rows_->data(), rows * vocab_size * kFloatBytes,
                          out + first * vocab_size);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

std::unique_ptr<DeviceFetch> LogitsHead::Draw(const float* in, int64_t count,
                                              const TokenDraw* draws) {
  auto* logits = static_cast<float*>(rows_->data());
  const TokenDraw* device_draws = nullptr;
  if (draws != nullptr) {
    kernels_.Upload(draws, count * kDrawBytes, draws_->data());
    device_draws = static_cast<const TokenDraw*>(draws_->data());
  }
  auto* tokens = static_cast<int32_t*>(tokens_->data());
  for (int64_t first = 0; first < count; first += rows_at_a_time_) {
    const int64_t rows = std::min(rows_at_a_time_, count - first);
    Multiply(in + first * weight_->in_features(), rows, logits);
    kernels_.Sample({logits,
                     device_draws == nullptr ? nullptr : device_draws + first,
                     rows, weight_->out_features(), tokens + first});
  }
  return kernels_.Fetch(tokens, count * kTokenBytes);
}

void LogitsHead::PutDrawn(const StepInputs& inputs) {
  if (inputs.num_drawn == 0) return;
  const int64_t max_rows = tokens_->bytes() / kTokenBytes;
  kernels_.CopyRows(
      {ConstTensorView(tokens_->data(), DType::kI32, {max_rows, 1}),
       TensorView(inputs.token_ids, DType::kI32, {inputs.num_tokens, 1}),
       inputs.drawn_rows, inputs.drawn_places, inputs.num_drawn});
}

}  // namespace shoal
