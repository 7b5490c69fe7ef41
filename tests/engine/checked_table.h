// CheckedTable computes as the table inside it does, over memory that stands
// for a device's: nothing but an op, Upload or Download can touch it, and an op
// only what its params name. A pointer or extent outside the table's buffers
// ends the process with the op's and the argument's name; a touch from outside
// is a segmentation fault. It says that it is asynchronous, so that steps are
// started before others are finished. Test support.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>

#include "kernels/kernel_table.h"
#include "tests/engine/guarded_memory.h"

namespace shoal {

class CheckedTable : public KernelTable {
 public:
  // `inner`: one whose memory_is_host().
  explicit CheckedTable(std::unique_ptr<KernelTable> inner);

  // The device fails after `num_ops` more ops: later ones do nothing, and from
  // then on Synchronize and Download say so. Any thread.
  void FailAfter(int64_t num_ops) { ops_left_ = num_ops; }

  std::string_view name() const override { return "checked"; }
  int num_threads() const override { return inner_->num_threads(); }
  bool memory_is_host() const override { return false; }
  bool is_asynchronous() const override { return true; }
  bool has_cache_tiles() const override { return inner_->has_cache_tiles(); }
  int64_t FreeBytes() const override { return inner_->FreeBytes(); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t bytes) override;
  void Upload(const void* host, int64_t bytes, void* device) override;
  absl::Status Download(const void* device, int64_t bytes, void* host) override;
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const WeightView& weight, Precision precision) override;

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

  absl::Status Synchronize() override;

 private:
  using Access = GuardedMemory::Access;

  // Counts an op; false once the device has failed.
  bool Begin();

  const std::unique_ptr<KernelTable> inner_;
  const std::shared_ptr<GuardedMemory> memory_;
  std::atomic<int64_t> ops_left_ = std::numeric_limits<int64_t>::max();
};

}  // namespace shoal
