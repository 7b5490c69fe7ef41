#include "engine/models/logits_head.h"

#include <algorithm>

namespace shoal {
namespace {

constexpr int64_t kRows = 32;  // that leave the table's memory at a time
constexpr auto kTokenBytes = static_cast<int64_t>(sizeof(int32_t));
constexpr auto kFloatBytes = static_cast<int64_t>(sizeof(float));

}  // namespace

LogitsHead::LogitsHead(KernelTable& kernels, WeightLoader& loader)
    : kernels_(kernels),
      weight_(loader.Matrix(loader.Contains("lm_head.weight")
                                ? "lm_head.weight"
                                : "model.embed_tokens.weight")) {
  if (weight_ == nullptr || kernels.memory_is_host()) return;
  rows_ =
      loader.Allocate("logits", kRows * weight_->out_features() * kFloatBytes);
  tokens_ = loader.Allocate("greedy tokens", kRows * kTokenBytes);
}

void LogitsHead::Multiply(const float* in, int64_t count, float* out) {
  const LinearPart part[] = {{weight_.get(), nullptr, out}};
  kernels_.Linear({in, count, weight_->in_features(), part});
}

absl::Status LogitsHead::Run(const float* in, int64_t count, float* out) {
  if (rows_ == nullptr) {
    Multiply(in, count, out);
    return kernels_.Synchronize();
  }
  const int64_t vocab_size = weight_->out_features();
  for (int64_t first = 0; first < count; first += kRows) {
    const int64_t rows = std::min(kRows, count - first);
    Multiply(in + first * weight_->in_features(), rows,
             static_cast<float*>(rows_->data()));
    absl::Status status =
        kernels_.Download(rows_->data(), rows * vocab_size * kFloatBytes,
                          out + first * vocab_size);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status LogitsHead::Greedy(const float* in, int64_t count, float* logits,
                                int32_t* tokens) {
  const int64_t vocab_size = weight_->out_features();
  if (rows_ == nullptr) {
    Multiply(in, count, logits);
    kernels_.ArgMax({logits, count, vocab_size, tokens});
    return kernels_.Synchronize();
  }
  auto* rows = static_cast<float*>(rows_->data());
  for (int64_t first = 0; first < count; first += kRows) {
    const int64_t num_rows = std::min(kRows, count - first);
    Multiply(in + first * weight_->in_features(), num_rows, rows);
    kernels_.ArgMax(
        {rows, num_rows, vocab_size, static_cast<int32_t*>(tokens_->data())});
    absl::Status status = kernels_.Download(
        tokens_->data(), num_rows * kTokenBytes, tokens + first);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace shoal
