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

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/packed_memory.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/kernel_table.h"

namespace shoal {

// To be raised when tiles change: files of repacked weights are of one layout.
inline constexpr int kPackedLayout = 1;

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

  // Memory for `bytes` of tiles; the data of the form.
  absl::StatusOr<uint8_t*> TakeTiles(int64_t bytes, PackedMemory& memory);
  // Has pack(begin, end, out) write them, or looks whether they are there.
  template <typename Pack>
  absl::Status Fill(int64_t num_tiles, int64_t tile_bytes, const Pack& pack,
                    uint8_t* out, ThreadPool& pool);

  Form form_ = Form::kStored;
  IntKind kind_ = IntKind::kS8;
  IntTiles tiles_;
  PairTiles pairs_;
  FloatRows floats_;
  WeightView stored_;
  std::shared_ptr<const void> memory_;
};

// As the instruction set's kernels expect. InvalidArgument for an
// element type that is no weight; errors of PackedMemory::Take().
absl::StatusOr<std::unique_ptr<CpuMatrix>> PackForCpu(const WeightView& weight,
                                                      Precision precision,
                                                      const CpuOps& ops,
                                                      PackedMemory& memory,
                                                      ThreadPool& pool);

}  // namespace shoal
