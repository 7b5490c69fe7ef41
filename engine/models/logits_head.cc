#include "engine/models/logits_head.h"

#include <algorithm>

namespace shoal {
namespace {

constexpr int64_t kRows = 32;  // that leave the table's memory at a time
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

}  // namespace shoal
