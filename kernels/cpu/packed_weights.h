// What the CPU's kernel table turns a stored matrix into.
//   tiles   quantised weights repacked for the integer kernels (see IntTiles)
//   pairs   BF16, FP8 and FP4 repacked for products in bf16 (see PairTiles),
//           with instruction sets that have them
//   floats  F32, F16 and other BF16, used where they lie
//   stored  everything else, and all types with Precision::kExact: rows are
//           dequantised to f32 as they are needed
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/kernel_table.h"

namespace shoal {

// Memory from the system, 64-byte aligned (large ones in huge pages where the
// system offers them), zeroed. nullptr data when the system refuses.
class HostBuffer : public DeviceBuffer {
 public:
  explicit HostBuffer(int64_t bytes);
  ~HostBuffer() override;
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;
};

// Gives packed matrices their memory out of large pieces, so that small
// matrices (experts) lie in huge pages too. A piece lives as long as any matrix
// in it.
class PackedMemory {
 public:
  // 64-byte aligned and zeroed; `owner` keeps it. nullptr without memory.
  uint8_t* Take(int64_t bytes, std::shared_ptr<HostBuffer>* owner);

 private:
  std::shared_ptr<HostBuffer> chunk_;
  int64_t used_ = 0;  // of chunk_
};

class CpuMatrix : public PackedMatrix {
 public:
  enum class Form : uint8_t { kTiles, kPairs, kFloats, kStored };

  Form form() const { return form_; }
  // kTiles.
  IntKind kind() const { return kind_; }
  const IntTiles& tiles() const { return tiles_; }
  // kPairs.
  const PairTiles& pairs() const { return pairs_; }
  // kFloats.
  const FloatRows& floats() const { return floats_; }
  // kStored.
  const WeightView& stored() const { return stored_; }

 private:
  friend absl::StatusOr<std::unique_ptr<CpuMatrix>> PackForCpu(
      const WeightView&, Precision, const CpuOps&, PackedMemory&, ThreadPool&);

  Form form_ = Form::kStored;
  IntKind kind_ = IntKind::kS8;
  IntTiles tiles_;
  PairTiles pairs_;
  FloatRows floats_;
  WeightView stored_;
  std::shared_ptr<HostBuffer> memory_;
};

// As the instruction set's kernels expect. InvalidArgument for an
// element type that is no weight; ResourceExhausted without memory.
absl::StatusOr<std::unique_ptr<CpuMatrix>> PackForCpu(const WeightView& weight,
                                                      Precision precision,
                                                      const CpuOps& ops,
                                                      PackedMemory& memory,
                                                      ThreadPool& pool);

}  // namespace shoal
