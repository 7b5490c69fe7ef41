#include "kernels/cpu/packed_weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/float_bits.h"

namespace shoal {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

// One group of kGroup weights as integers.
struct Group {
  uint8_t q[kGroup];   // as IntTiles stores them, one a byte
  uint16_t scales[2];  // f16
  uint16_t min;        // f16
};

// The tile form of a stored type; nothing for types that have none.
std::optional<IntKind> KindOf(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return IntKind::kS4;
    case DType::kQ4_1:
    case DType::kQ4_K:
      return IntKind::kU4Min;
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

int64_t GroupBytes(IntKind kind, int tile_rows) {
  const bool four_bit = kind == IntKind::kU4Min || kind == IntKind::kS4 ||
                        kind == IntKind::kTable4;
  const int halves = 1 + (kind == IntKind::kU4Min || kind == IntKind::kU8Min ||
                          kind == IntKind::kS8Half);
  return int64_t{tile_rows} * (2 * halves + kGroup / (four_bit ? 2 : 1));
}

// Nibbles in the order of Q4_0: low halves first.
void SplitNibbles(const uint8_t* qs, uint8_t* q) {
  for (int j = 0; j < 16; ++j) {
    q[j] = qs[j] & 15;
    q[j + 16] = qs[j] >> 4;
  }
}

// Fifth bits of Q5_0 and Q5_1.
void AddFifthBits(const uint8_t* qh, uint8_t* q) {
  const auto bits = LoadUnaligned<uint32_t>(qh);
  for (int j = 0; j < kGroup; ++j) q[j] |= ((bits >> j) & 1u) << 4;
}

uint16_t HalfProduct(const uint8_t* half, int factor) {
  return F32ToF16(F16ToF32(LoadUnaligned<uint16_t>(half)) *
                  static_cast<float>(factor));
}

// Group `i` (0..7) of a block of 256; layouts in kernels/quant/dequantize.h.
void ReadSuperBlockGroup(DType dtype, const uint8_t* block, int i,
                         Group* group) {
  switch (dtype) {
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const uint8_t* qs = block + (dtype == DType::kQ4_K ? 16 : 48);
      uint8_t scale, min;
      UnpackK4Scale(block + 4, i, &scale, &min);
      group->scales[0] = HalfProduct(block, scale);
      group->min = HalfProduct(block + 2, -static_cast<int>(min));
      for (int l = 0; l < kGroup; ++l) {
        const uint8_t byte = qs[32 * (i / 2) + l];
        group->q[l] = i % 2 == 0 ? byte & 15 : byte >> 4;
        if (dtype == DType::kQ5_K) {
          group->q[l] |= ((block[16 + l] >> i) & 1) << 4;
        }
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

// Group `g` of a stored row.
void ReadGroup(DType dtype, const uint8_t* row, int64_t g, Group* group) {
  const DTypeInfo& info = GetDTypeInfo(dtype);
  const int per_block = info.block_elements / kGroup;
  const uint8_t* block = row + g / per_block * info.block_bytes;
  if (per_block > 1) {
    ReadSuperBlockGroup(dtype, block, static_cast<int>(g % per_block), group);
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

// Writes row `r` of a tile's group.
void WriteGroup(IntKind kind, const Group& group, int r, int tile_rows,
                uint8_t* out) {
  const auto put_half = [&](uint16_t half) {
    std::memcpy(out + 2 * r, &half, sizeof(half));
    out += 2 * tile_rows;
  };
  put_half(group.scales[0]);
  if (kind == IntKind::kS8Half) put_half(group.scales[1]);
  if (kind == IntKind::kU4Min || kind == IntKind::kU8Min) put_half(group.min);
  if (kind == IntKind::kU4Min || kind == IntKind::kS4 ||
      kind == IntKind::kTable4) {
    for (int k = 0; k < kGroup; ++k) {
      uint8_t& byte = out[(k / 8 * tile_rows + r) * 4 + k % 4];
      byte |= k % 8 < 4 ? group.q[k] : group.q[k] << 4;
    }
  } else {
    for (int k = 0; k < kGroup; ++k) {
      out[(k / 4 * tile_rows + r) * 4 + k % 4] = group.q[k];
    }
  }
}

}  // namespace

HostBuffer::HostBuffer(int64_t bytes) {
  const int64_t unit = bytes >= kHugePage ? kHugePage : 4096;
  const int64_t rounded =
      (std::max<int64_t>(bytes, 1) + unit - 1) / unit * unit;
  void* memory = mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return;
  // Fewer address translations for weights and cache; only advice.
  if (unit == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
  data_ = memory;
  bytes_ = rounded;
}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::StatusOr<std::unique_ptr<CpuMatrix>> PackForCpu(const WeightView& weight,
                                                      Precision precision,
                                                      int tile_rows,
                                                      ThreadPool& pool) {
  SHOAL_CHECK(weight.data.rank == 2);
  const DType dtype = weight.data.dtype;
  auto matrix = std::make_unique<CpuMatrix>();
  matrix->out_features_ = weight.out_features();
  matrix->in_features_ = weight.in_features();
  matrix->source_dtype_ = dtype;
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

  const int64_t groups = weight.in_features() / kGroup;
  const int64_t group_bytes = GroupBytes(*kind, tile_rows);
  const int64_t num_tiles = (weight.out_features() + tile_rows - 1) / tile_rows;
  IntTiles& tiles = matrix->tiles_;
  tiles.out_features = weight.out_features();
  tiles.in_features = weight.in_features();
  tiles.tile_bytes = groups * group_bytes;
  matrix->memory_ = std::make_unique<HostBuffer>(num_tiles * tiles.tile_bytes);
  auto* out = static_cast<uint8_t*>(matrix->memory_->data());
  if (out == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", num_tiles * tiles.tile_bytes,
                     " bytes of repacked weights"));
  }
  tiles.data = out;
  matrix->form_ = CpuMatrix::Form::kTiles;
  matrix->kind_ = *kind;
  matrix->owned_bytes_ = matrix->memory_->bytes();
  matrix->borrows_source_ = false;

  const auto* source = static_cast<const uint8_t*>(weight.data.data);
  const int64_t row_bytes = DTypeBytes(dtype, weight.in_features());
  pool.For(num_tiles, 16, [&](int64_t begin, int64_t end, int) {
    Group group = {};
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int r = 0; r < tile_rows; ++r) {
        const int64_t row = tile * tile_rows + r;
        if (row >= tiles.out_features) break;
        for (int64_t g = 0; g < groups; ++g) {
          ReadGroup(dtype, source + row * row_bytes, g, &group);
          WriteGroup(*kind, group, r, tile_rows,
                     out + tile * tiles.tile_bytes + g * group_bytes);
        }
      }
    }
  });
  return matrix;
}

}  // namespace shoal
