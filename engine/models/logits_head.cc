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

LogitsHead::LogitsHead(KernelTable& kernels, WeightLoader& loader)
    : kernels_(kernels),
      max_rows_(kernels.memory_is_host() ? kHostRows : kDeviceRows),
      weight_(loader.Matrix(loader.Contains("lm_head.weight")
                                ? "lm_head.weight"
                                : "model.embed_tokens.weight")) {
  if (weight_ == nullptr) return;
  rows_ = loader.Allocate("logits",
                          max_rows_ * weight_->out_features() * kFloatBytes);
  draws_ = loader.Allocate("draws", max_rows_ * kDrawBytes);
  tokens_ = loader.Allocate("tokens", max_rows_ * kTokenBytes);
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
  for (int64_t first = 0; first < count; first += max_rows_) {
    const int64_t rows = std::min(max_rows_, count - first);
    Multiply(in + first * weight_->in_features(), rows,
             static_cast<float*>(rows_->data()));
    absl::Status status =
        kernels_.Download(rows_->data(), rows * vocab_size * kFloatBytes,
                          out + first * vocab_size);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status LogitsHead::Sample(const float* in, int64_t count,
                                const TokenDraw* draws, int32_t* tokens) {
  auto* logits = static_cast<float*>(rows_->data());
  const auto* device_draws =
      draws == nullptr ? nullptr : static_cast<TokenDraw*>(draws_->data());
  auto* device_tokens = static_cast<int32_t*>(tokens_->data());
  for (int64_t first = 0; first < count; first += max_rows_) {
    const int64_t rows = std::min(max_rows_, count - first);
    Multiply(in + first * weight_->in_features(), rows, logits);
    if (draws != nullptr) {
      kernels_.Upload(draws + first, rows * kDrawBytes, draws_->data());
    }
    kernels_.Sample(
        {logits, device_draws, rows, weight_->out_features(), device_tokens});
    absl::Status status =
        kernels_.Download(device_tokens, rows * kTokenBytes, tokens + first);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace shoal
