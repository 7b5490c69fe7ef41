// MirroredTable lets tests that are written for host pointers run on a table
// whose memory is the device's: every op's arrays go to buffers of the inner
// table that are exactly as large, and what it writes comes back. Arrays that
// overlap on the host share a buffer. Test support, slow.
#pragma once

#include <memory>

#include "kernels/kernel_table.h"

namespace shoal {

class MirroredTable : public KernelTable {
 public:
  explicit MirroredTable(std::unique_ptr<KernelTable> inner)
      : inner_(std::move(inner)) {}

  std::string_view name() const override { return inner_->name(); }
  int num_threads() const override { return inner_->num_threads(); }
  Precision rounded_head_precision() const override {
    return inner_->rounded_head_precision();
  }
  bool memory_is_host() const override { return false; }
  int64_t FreeBytes() const override { return inner_->FreeBytes(); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t bytes) override {
    return inner_->Allocate(bytes);
  }
  void Upload(const void* host, int64_t bytes, void* device) override {
    inner_->Upload(host, bytes, device);
  }
  absl::Status Download(const void* device, int64_t bytes,
                        void* host) override {
    return inner_->Download(device, bytes, host);
  }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const WeightView& weight, Precision precision) override {
    return inner_->Pack(weight, precision);
  }

  void Linear(const LinearParams& params) override;
  void HeadLinear(const HeadLinearParams& params) override;
  void GatedLinear(const GatedLinearParams& params) override;
  void Zero(float* out, int64_t n) override;
  void Add(const float* in, int64_t n, float* out) override;
  void Embedding(const EmbeddingParams& params) override;
  void RmsNorm(const RmsNormParams& params) override;
  void LayerNorm(const LayerNormParams& params) override;
  void Rope(const RopeParams& params) override;
  void SiluMul(const SiluMulParams& params) override;
  void CacheWrite(const CacheWriteParams& params) override;
  void HeadsWrite(const HeadsWriteParams& params) override;
  void PagedAttention(const PagedAttentionParams& params) override;
  void LatentWrite(const LatentWriteParams& params) override;
  void LatentAttention(const LatentAttentionParams& params) override;
  void CopyRows(const CopyRowsParams& params) override;
  void KeySelect(const KeySelectParams& params) override;
  void SparseAttention(const SparseAttentionParams& params) override;
  void Compress(const CompressParams& params) override;
  void HyperMix(const HyperMixParams& params) override;
  void HyperExpand(const HyperExpandParams& params) override;
  void MoeRoute(const MoeRouteParams& params) override;
  void MoeExperts(const MoeExpertsParams& params) override;
  void Sample(const SampleParams& params) override;
  absl::Status Synchronize() override { return inner_->Synchronize(); }

 private:
  const std::unique_ptr<KernelTable> inner_;
};

}  // namespace shoal
