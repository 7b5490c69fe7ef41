// KernelTable is one backend's set of ops: the engine runs every model through
// it and knows nothing else of the device. An instance owns its threads (CPU)
// or stream (CUDA) and its scratch memory.
//
// Every data pointer of an op's params, those in structs of its spans included,
// is memory that Allocate() of the same table gave; where memory_is_host() any
// host memory will do. Params, their spans and PackedMatrix objects are the
// host's, read before the call returns. A call returns when the work is done
// (CPU) or queued in order (CUDA); Synchronize() waits for it and reports
// asynchronous faults.
// REQUIRES of every op: shapes as its params struct says; a table checks them
// in debug builds only. Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "kernels/compress.h"
#include "kernels/elementwise.h"
#include "kernels/hyper_connection.h"
#include "kernels/latent_attention.h"
#include "kernels/linear.h"
#include "kernels/moe.h"
#include "kernels/sampling.h"
#include "kernels/sparse_attention.h"

namespace shoal {

// Memory of a table's device, freed with the object. 64-byte aligned.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 protected:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Bytes on their way out of a table's memory. Must not outlive the table.
class DeviceFetch {
 public:
  virtual ~DeviceFetch() = default;
  // Waits until they are there; they stay as long as this object. Internal on a
  // device fault (sticky).
  virtual absl::StatusOr<const void*> Wait() = 0;
};

class KernelTable {
 public:
  virtual ~KernelTable() = default;

  // "scalar", "avx2", "avx512", "cuda".
  virtual std::string_view name() const = 0;
  virtual int num_threads() const = 0;

  // Whether ops compute in the host's memory: what lies there needs no copy,
  // and what Allocate() gave may be touched outside ops.
  virtual bool memory_is_host() const = 0;
  // Whether ops are queued rather than done when their calls return.
  virtual bool is_asynchronous() const { return false; }
  // Bytes that Allocate() could give now, as far as the device tells.
  virtual int64_t FreeBytes() const = 0;

  // Zeroed memory. ResourceExhausted when the device has not that much.
  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t bytes) = 0;

  // Copies into memory that Allocate() gave. `host` may be reused at once.
  virtual void Upload(const void* host, int64_t bytes, void* device) = 0;
  // Copies out of it, once the ops queued before are done. Internal on a device
  // fault (sticky).
  virtual absl::Status Download(const void* device, int64_t bytes,
                                void* host) = 0;
  // The same without waiting: the copy is queued behind the ops so far, and ops
  // that come later may change what is copied.
  virtual std::unique_ptr<DeviceFetch> Fetch(const void* device, int64_t bytes);

  // Whether CacheWrite and PagedAttention take caches in tiles (attention.h),
  // and prefer them.
  virtual bool has_cache_tiles() const { return false; }
  // The precision in which heads' products (HeadLinear, LatentAttention) want
  // matrices whose values may be rounded.
  virtual Precision rounded_head_precision() const { return Precision::kExact; }

  // Lays `weight` out for Linear. InvalidArgument for a dtype without a
  // product. `weight` lies in host memory; its bytes must outlive the result if
  // borrows_source().
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const WeightView& weight, Precision precision) = 0;

  // What Pack() makes until EndPacking() is kept in the file `path` or, if that
  // has it, taken from there. `key` names the stored tensors and everything
  // else that what is made depends on, the order of the calls included;
  // `max_bytes` bounds what they make. Unimplemented for a device whose memory
  // is not the host's; errors of the file system.
  virtual absl::Status KeepPacked(const std::string& path,
                                  const std::string& key, int64_t max_bytes) {
    (void)path, (void)key, (void)max_bytes;
    return absl::UnimplementedError(
        "packed weights are kept in files by the CPU only");
  }
  // Errors of the file system; FailedPrecondition if the file held more.
  virtual absl::Status EndPacking() { return absl::OkStatus(); }

  virtual void Linear(const LinearParams& params) = 0;
  virtual void HeadLinear(const HeadLinearParams& params) = 0;
  // Linear() and SiluMul(), unless a table can do both at once.
  virtual void GatedLinear(const GatedLinearParams& params);
  // out[0, n) = 0.
  virtual void Zero(float* out, int64_t n) = 0;
  // out[0, n) += in[0, n).
  virtual void Add(const float* in, int64_t n, float* out) = 0;
  virtual void Embedding(const EmbeddingParams& params) = 0;
  virtual void RmsNorm(const RmsNormParams& params) = 0;
  virtual void LayerNorm(const LayerNormParams& params) = 0;
  virtual void Rope(const RopeParams& params) = 0;
  virtual void SiluMul(const SiluMulParams& params) = 0;
  virtual void CacheWrite(const CacheWriteParams& params) = 0;
  // RmsNorm(), Rope() and CacheWrite(), unless a table can do all at once.
  virtual void HeadsWrite(const HeadsWriteParams& params);
  virtual void PagedAttention(const PagedAttentionParams& params) = 0;
  virtual void LatentWrite(const LatentWriteParams& params) = 0;
  virtual void LatentAttention(const LatentAttentionParams& params) = 0;
  virtual void CopyRows(const CopyRowsParams& params) = 0;
  virtual void KeySelect(const KeySelectParams& params) = 0;
  virtual void SparseAttention(const SparseAttentionParams& params) = 0;
  virtual void Compress(const CompressParams& params) = 0;
  virtual void HyperMix(const HyperMixParams& params) = 0;
  virtual void HyperExpand(const HyperExpandParams& params) = 0;
  virtual void MoeRoute(const MoeRouteParams& params) = 0;
  virtual void MoeExperts(const MoeExpertsParams& params) = 0;
  virtual void Sample(const SampleParams& params) = 0;

  // Calls `ops`, which queues ops whose params follow from `key`: only what
  // lies in the device's memory differs between calls with equal keys. A device
  // may record them, and replay the record instead of a later call. REQUIRES:
  // `ops` copies nothing between host and device, and allocates nothing.
  virtual absl::Status Replay(std::span<const int64_t> key,
                              absl::FunctionRef<absl::Status()> ops) {
    (void)key;
    return ops();
  }

  // Waits for all queued ops. Internal on a device fault (sticky).
  virtual absl::Status Synchronize() = 0;

 protected:
  // The shared experts' part of MoeExperts(), as ops.
  void AddShared(const MoeExpertsParams& params);
};

}  // namespace shoal
