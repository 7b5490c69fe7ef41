#include "kernels/cpu/packed_weights.h"

#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/pair_tiles.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/float_bits.h"

namespace shoal {
namespace {

// The compiler is to see which type it is in the loops below, so that each
// becomes straight code.
#define SHOAL_INLINE inline __attribute__((always_inline))

// One group of kGroup weights as integers.
struct Group {
  uint8_t q[kGroup];   // as IntTiles stores them, one a byte
  uint16_t scales[2];  // f16
  uint16_t min;        // f16
  uint8_t factors[2];  // kU4Super: of the super-block's scale and minimum
};

// The tile form of a stored type; nothing for types that have none.
constexpr std::optional<IntKind> KindOf(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return IntKind::kS4;
    case DType::kQ4_1:
      return IntKind::kU4Min;
    case DType::kQ4_K:
      return IntKind::kU4Super;
    case DType::kIQ4_NL:
    case DType::kIQ4_XS:
      return IntKind::kTable4;
    case DType::kQ5_0:
    case DType::kQ8_0:
      return IntKind::kS8;
    case DType::kQ5_1:
    case DType::kQ5_K:
      return IntKind::kU8Min;
    case DType::kQ3_K:
    case DType::kQ6_K:
      return IntKind::kS8Half;
    default:
      return std::nullopt;
  }
}

bool IsWeight(DType dtype) {
  switch (dtype) {
    case DType::kI8:
    case DType::kU8:
    case DType::kI16:
    case DType::kI32:
    case DType::kI64:
    case DType::kBool:
    case DType::kF8E8M0:
      return false;
    default:
      return true;
  }
}

constexpr bool IsFourBit(IntKind kind) {
  return kind == IntKind::kU4Min || kind == IntKind::kS4 ||
         kind == IntKind::kTable4 || kind == IntKind::kU4Super;
}

constexpr int64_t GroupBytes(IntKind kind, int tile_rows) {
  const int halves = 1 + (kind == IntKind::kU4Min || kind == IntKind::kU8Min ||
                          kind == IntKind::kS8Half);
  // Two factors take as much as one half.
  return int64_t{tile_rows} * (2 * halves + kGroup / (IsFourBit(kind) ? 2 : 1));
}

constexpr int64_t SuperHeadBytes(IntKind kind, int tile_rows) {
  return kind == IntKind::kU4Super ? int64_t{4} * tile_rows : 0;
}

// Nibbles in the order of Q4_0: low halves first.
SHOAL_INLINE void SplitNibbles(const uint8_t* qs, uint8_t* q) {
  for (int j = 0; j < 16; ++j) {
    q[j] = qs[j] & 15;
    q[j + 16] = qs[j] >> 4;
  }
}

// Fifth bits of Q5_0 and Q5_1.
SHOAL_INLINE void AddFifthBits(const uint8_t* qh, uint8_t* q) {
  const auto bits = LoadUnaligned<uint32_t>(qh);
  for (int j = 0; j < kGroup; ++j) q[j] |= ((bits >> j) & 1u) << 4;
}

SHOAL_INLINE uint16_t HalfProduct(const uint8_t* half, int factor) {
  return F32ToF16(F16ToF32(LoadUnaligned<uint16_t>(half)) *
                  static_cast<float>(factor));
}

// Group `i` (0..7) of a block of 256; layouts in kernels/quant/dequantize.h.
SHOAL_INLINE void ReadSuperBlockGroup(DType dtype, const uint8_t* block, int i,
                                      Group* group) {
  switch (dtype) {
    case DType::kQ4_K: {
      UnpackK4Scale(block + 4, i, &group->factors[0], &group->factors[1]);
      group->scales[0] = LoadUnaligned<uint16_t>(block);
      group->min = LoadUnaligned<uint16_t>(block + 2);
      const uint8_t* qs = block + 16 + 32 * (i / 2);
      const int shift = i % 2 * 4;
      for (int l = 0; l < kGroup; ++l) group->q[l] = (qs[l] >> shift) & 15;
      return;
    }
    case DType::kQ5_K: {
      uint8_t scale, min;
      UnpackK4Scale(block + 4, i, &scale, &min);
      group->scales[0] = HalfProduct(block, scale);
      group->min = HalfProduct(block + 2, -static_cast<int>(min));
      const uint8_t* qs = block + 48 + 32 * (i / 2);
      const int shift = i % 2 * 4;
      for (int l = 0; l < kGroup; ++l) {
        group->q[l] = static_cast<uint8_t>(((qs[l] >> shift) & 15) |
                                           ((block[16 + l] >> i) & 1) << 4);
      }
      return;
    }
    case DType::kQ6_K: {
      const int h = i / 4, j = i % 4;
      for (int l = 0; l < kGroup; ++l) {
        const uint8_t low = block[64 * h + 32 * (j & 1) + l];
        const int q = (j < 2 ? low & 15 : low >> 4) |
                      ((block[128 + 32 * h + l] >> (2 * j)) & 3) << 4;
        group->q[l] = static_cast<uint8_t>(q - 32);
      }
      for (int s = 0; s < 2; ++s) {
        group->scales[s] = HalfProduct(
            block + 208, static_cast<int8_t>(block[192 + 2 * i + s]));
      }
      return;
    }
    case DType::kQ3_K: {
      const uint8_t* qs = block + 32;
      const uint8_t* sc = block + 96;
      const int h = i / 4, j = i % 4;
      for (int l = 0; l < kGroup; ++l) {
        const int q = (qs[32 * h + l] >> (2 * j)) & 3;
        const bool high = ((block[l] >> i) & 1) != 0;
        group->q[l] = static_cast<uint8_t>(q - (high ? 0 : 4));
      }
      for (int s = 0; s < 2; ++s) {
        const int k = 2 * i + s;
        const int low = k < 8 ? sc[k] & 15 : sc[k - 8] >> 4;
        const int high = (sc[8 + k % 4] >> (2 * (k / 4))) & 3;
        group->scales[s] = HalfProduct(block + 108, (low | high << 4) - 32);
      }
      return;
    }
    default: {  // kIQ4_XS
      const auto high = LoadUnaligned<uint16_t>(block + 2);
      const int scale = ((block[4 + i / 2] >> (4 * (i & 1))) & 15) |
                        ((high >> (2 * i)) & 3) << 4;
      group->scales[0] = HalfProduct(block, scale - 32);
      SplitNibbles(block + 8 + 16 * i, group->q);
      return;
    }
  }
}

// Groups in a block.
constexpr int GroupsOf(DType dtype) {
  switch (dtype) {
    case DType::kQ3_K:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
    case DType::kIQ4_XS:
      return kSuperGroups;
    default:
      return 1;
  }
}

// Group `i` of a stored block.
SHOAL_INLINE void ReadGroup(DType dtype, const uint8_t* block, int i,
                            Group* group) {
  if (GroupsOf(dtype) > 1) {
    ReadSuperBlockGroup(dtype, block, i, group);
    return;
  }
  group->scales[0] = LoadUnaligned<uint16_t>(block);
  switch (dtype) {
    case DType::kQ4_1:
      group->min = LoadUnaligned<uint16_t>(block + 2);
      return SplitNibbles(block + 4, group->q);
    case DType::kQ5_0:
      SplitNibbles(block + 6, group->q);
      AddFifthBits(block + 2, group->q);
      for (uint8_t& q : group->q) q = static_cast<uint8_t>(q - 16);
      return;
    case DType::kQ5_1:
      group->min = LoadUnaligned<uint16_t>(block + 2);
      SplitNibbles(block + 8, group->q);
      return AddFifthBits(block + 4, group->q);
    case DType::kQ8_0:
      std::memcpy(group->q, block + 2, kGroup);
      return;
    default:  // kQ4_0, kIQ4_NL
      return SplitNibbles(block + 2, group->q);
  }
}

SHOAL_INLINE void PutHalf(uint16_t half, uint8_t* out) {
  std::memcpy(out, &half, sizeof(half));
}

// Writes row `r` of group `g` of a tile.
SHOAL_INLINE void WriteGroup(IntKind kind, const Group& group, int64_t g, int r,
                             int tile_rows, uint8_t* tile) {
  const int64_t head = SuperHeadBytes(kind, tile_rows);
  uint8_t* out =
      tile + g * GroupBytes(kind, tile_rows) + (g / kSuperGroups + 1) * head;
  if (kind == IntKind::kU4Super) {
    if (g % kSuperGroups == 0) {
      PutHalf(group.scales[0], out - head + 2 * r);
      PutHalf(group.min, out - head + 2 * (tile_rows + r));
    }
    out[r] = group.factors[0];
    out[tile_rows + r] = group.factors[1];
    out += 2 * tile_rows;
  } else {
    const auto put = [&](uint16_t half) {
      PutHalf(half, out + 2 * r);
      out += 2 * tile_rows;
    };
    put(group.scales[0]);
    if (kind == IntKind::kS8Half) put(group.scales[1]);
    if (kind == IntKind::kU4Min || kind == IntKind::kU8Min) put(group.min);
  }
  // Lanes of four bytes; of 4-bit weights the second four are high halves.
  const bool four_bit = IsFourBit(kind);
  for (int c = 0; c < (four_bit ? 4 : 8); ++c) {
    uint32_t lane;
    if (four_bit) {
      const auto eight = LoadUnaligned<uint64_t>(group.q + 8 * c);
      lane = static_cast<uint32_t>(eight | eight >> 28);
    } else {
      lane = LoadUnaligned<uint32_t>(group.q + 4 * c);
    }
    std::memcpy(out + (c * tile_rows + r) * 4, &lane, sizeof(lane));
  }
}

// Tiles [begin, end) of a stored matrix.
template <DType kDType>
void PackTiles(const WeightView& weight, const IntTiles& tiles, int tile_rows,
               int64_t begin, int64_t end, uint8_t* out) {
  constexpr IntKind kKind = *KindOf(kDType);
  constexpr int kPerBlock = GroupsOf(kDType);
  const int64_t block_bytes = GetDTypeInfo(kDType).block_bytes;
  const auto* source = static_cast<const uint8_t*>(weight.data.data);
  const int64_t row_bytes = DTypeBytes(kDType, tiles.in_features);
  const int64_t groups = tiles.in_features / kGroup;
  Group group = {};
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int r = 0; r < tile_rows; ++r) {
      const int64_t row = tile * tile_rows + r;
      if (row >= tiles.out_features) break;
      const uint8_t* block = source + row * row_bytes;
      uint8_t* place = out + tile * tiles.tile_bytes;
      for (int64_t g = 0; g < groups; g += kPerBlock) {
#pragma GCC unroll 8
        for (int i = 0; i < kPerBlock; ++i) {
          ReadGroup(kDType, block, i, &group);
          WriteGroup(kKind, group, g + i, r, tile_rows, place);
        }
        block += block_bytes;
      }
    }
  }
}

// REQUIRES: KindOf(dtype) has a value.
decltype(&PackTiles<DType::kQ8_0>) PackerOf(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return PackTiles<DType::kQ4_0>;
    case DType::kQ4_1:
      return PackTiles<DType::kQ4_1>;
    case DType::kQ4_K:
      return PackTiles<DType::kQ4_K>;
    case DType::kIQ4_NL:
      return PackTiles<DType::kIQ4_NL>;
    case DType::kIQ4_XS:
      return PackTiles<DType::kIQ4_XS>;
    case DType::kQ5_0:
      return PackTiles<DType::kQ5_0>;
    case DType::kQ5_1:
      return PackTiles<DType::kQ5_1>;
    case DType::kQ5_K:
      return PackTiles<DType::kQ5_K>;
    case DType::kQ3_K:
      return PackTiles<DType::kQ3_K>;
    case DType::kQ6_K:
      return PackTiles<DType::kQ6_K>;
    default:
      return PackTiles<DType::kQ8_0>;
  }
}

}  // namespace

absl::StatusOr<uint8_t*> CpuMatrix::TakeTiles(int64_t bytes,
                                              PackedMemory& memory) {
  absl::StatusOr<PackedMemory::Place> place = memory.Take(bytes);
  if (!place.ok()) return place.status();
  memory_ = std::move(place->owner);
  owned_bytes_ = bytes;
  borrows_source_ = false;
  was_packed_ = place->is_packed;
  return place->data;
}

template <typename Pack>
absl::Status CpuMatrix::Fill(int64_t num_tiles, int64_t tile_bytes,
                             const Pack& pack, uint8_t* out, ThreadPool& pool) {
  if (!was_packed_) {
    pool.For(num_tiles, 16,
             [&](int64_t begin, int64_t end, int) { pack(begin, end, out); });
    return absl::OkStatus();
  }
  // That the file is this matrix's, whatever its key says.
  std::vector<uint8_t> first(tile_bytes);
  pack(0, 1, first.data());
  if (std::memcmp(first.data(), out, tile_bytes) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the file of repacked weights holds another matrix here; remove it");
}

absl::StatusOr<std::unique_ptr<CpuMatrix>> PackForCpu(const WeightView& weight,
                                                      Precision precision,
                                                      const CpuOps& ops,
                                                      PackedMemory& memory,
                                                      ThreadPool& pool) {
  SHOAL_CHECK(weight.data.rank == 2);
  const DType dtype = weight.data.dtype;
  auto matrix = std::make_unique<CpuMatrix>();
  matrix->out_features_ = weight.out_features();
  matrix->in_features_ = weight.in_features();
  matrix->source_dtype_ = dtype;
  if (precision == Precision::kFast && ops.has_pairs && CanPackPairs(weight)) {
    PairTiles& pairs = matrix->pairs_;
    pairs = PairLayout(weight);
    const int64_t num_tiles = NumPairTiles(pairs.out_features);
    absl::StatusOr<uint8_t*> out =
        matrix->TakeTiles(num_tiles * pairs.tile_bytes, memory);
    if (!out.ok()) return out.status();
    pairs.data = *out;
    matrix->form_ = CpuMatrix::Form::kPairs;
    const auto pack = [&](int64_t begin, int64_t end, uint8_t* place) {
      PackPairTiles(weight, pairs, begin, end, place);
    };
    absl::Status status =
        matrix->Fill(num_tiles, pairs.tile_bytes, pack, *out, pool);
    if (!status.ok()) return status;
    return matrix;
  }
  const bool plain =
      dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
  if (plain) {
    matrix->form_ = CpuMatrix::Form::kFloats;
    matrix->floats_ = {weight.data.data, dtype, weight.in_features()};
    return matrix;
  }
  if (!IsWeight(dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no product with weights of type ", std::string(DTypeName(dtype))));
  }
  const std::optional<IntKind> kind = KindOf(dtype);
  if (precision == Precision::kExact || !kind.has_value()) {
    matrix->form_ = CpuMatrix::Form::kStored;
    matrix->stored_ = weight;
    return matrix;
  }

  const int tile_rows = ops.tile_rows;
  const int64_t groups = weight.in_features() / kGroup;
  const int64_t num_tiles = (weight.out_features() + tile_rows - 1) / tile_rows;
  IntTiles& tiles = matrix->tiles_;
  tiles.out_features = weight.out_features();
  tiles.in_features = weight.in_features();
  tiles.tile_bytes = groups * GroupBytes(*kind, tile_rows) +
                     groups / kSuperGroups * SuperHeadBytes(*kind, tile_rows);
  absl::StatusOr<uint8_t*> out =
      matrix->TakeTiles(num_tiles * tiles.tile_bytes, memory);
  if (!out.ok()) return out.status();
  tiles.data = *out;
  matrix->form_ = CpuMatrix::Form::kTiles;
  matrix->kind_ = *kind;
  const auto pack = [&, packer = PackerOf(dtype)](int64_t begin, int64_t end,
                                                  uint8_t* place) {
    packer(weight, tiles, tile_rows, begin, end, place);
  };
  absl::Status status =
      matrix->Fill(num_tiles, tiles.tile_bytes, pack, *out, pool);
  if (!status.ok()) return status;
  return matrix;
}

}  // namespace shoal
