#include "kernels/cpu/pair_tiles.h"

#include <algorithm>
#include <cstring>

#include "kernels/quant/dequantize.h"

namespace shoal {
namespace {

constexpr int64_t kHalfRows = kPairTileRows / 2;
constexpr int64_t kHalfBytes = 64;
constexpr int64_t kStepBytes = 2 * kHalfBytes;

// Stored bytes of a row's step, whatever the type, and the columns in them.
constexpr int64_t kSourceBytes = 4;
constexpr int64_t StepColumns(PairKind kind) {
  switch (kind) {
    case PairKind::kBf16:
      return 2;
    case PairKind::kE4M3:
      return 4;
    case PairKind::kE2M1:
      return 8;
  }
  return 0;
}

constexpr PairKind KindOf(DType dtype) {
  switch (dtype) {
    case DType::kF8E4M3:
      return PairKind::kE4M3;
    case DType::kF4E2M1:
      return PairKind::kE2M1;
    default:
      return PairKind::kBf16;
  }
}

const uint8_t* Bytes(const ConstTensorView& tensor) {
  return static_cast<const uint8_t*>(tensor.data);
}

bool HasNan(const uint8_t* codes, int64_t count) {
  bool found = false;
  for (int64_t i = 0; i < count; ++i) found |= (codes[i] & 0x7f) == 0x7f;
  return found;
}

// One step of one row: `source` holds StepColumns(kKind) columns.
template <PairKind kKind>
void PutStep(const uint8_t* source, int64_t row, uint8_t* step) {
  uint8_t* half = step + row / kHalfRows * kHalfBytes;
  const int64_t r = row % kHalfRows;
  if constexpr (kKind == PairKind::kBf16) {
    std::memcpy(half + 4 * r, source, 4);
    return;
  }
  uint8_t* place = half + r / 4 * 16 + r % 4 * 2;
  if constexpr (kKind == PairKind::kE4M3) {
    std::memcpy(place, source, 2);
    std::memcpy(place + 8, source + 2, 2);
  } else {
    // Columns 0 and 4, 1 and 5, 2 and 6, 3 and 7 share a byte.
    for (int i = 0; i < 2; ++i) {
      const uint8_t low = source[i], high = source[i + 2];
      place[8 * i] = static_cast<uint8_t>((low & 15) | high << 4);
      place[8 * i + 1] = static_cast<uint8_t>(low >> 4 | (high & 0xf0));
    }
  }
}

// Steps [begin, end) of a row, which begin at `source`.
template <PairKind kKind>
void PutSteps(const uint8_t* source, int64_t row, int64_t begin, int64_t end,
              uint8_t* codes) {
  for (int64_t s = begin; s < end; ++s) {
    PutStep<kKind>(source, row, codes + s * kStepBytes);
    source += kSourceBytes;
  }
}

template <PairKind kKind>
void PackCodes(const WeightView& weight, int64_t first_row, int64_t rows,
               uint8_t* codes) {
  constexpr int64_t kColumns = StepColumns(kKind);
  // Steps of all rows that stay in the first-level cache.
  constexpr int64_t kBlock = 16;
  const int64_t n = weight.in_features();
  const int64_t row_bytes = DTypeBytes(weight.data.dtype, n);
  const int64_t whole = n / kColumns;
  const uint8_t* source = Bytes(weight.data) + first_row * row_bytes;
  for (int64_t step = 0; step < whole; step += kBlock) {
    const int64_t end = std::min(step + kBlock, whole);
    for (int64_t r = 0; r < rows; ++r) {
      PutSteps<kKind>(source + r * row_bytes + step * kSourceBytes, r, step,
                      end, codes);
    }
  }
  const int64_t done = whole * kSourceBytes;
  if (done == row_bytes) return;
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t padded[kSourceBytes] = {};
    std::memcpy(padded, source + r * row_bytes + done, row_bytes - done);
    PutSteps<kKind>(padded, r, whole, whole + 1, codes);
  }
}

// E4M3's scale of the tile's rows and the group; E8M0 is exact in f32.
float TileScale(const WeightView& weight, int64_t row, int64_t group) {
  const int64_t index = row / weight.scale_rows * weight.scales.dim(1) + group;
  float scale;
  DequantizeRow(weight.scales.dtype,
                Bytes(weight.scales) + DTypeBytes(weight.scales.dtype, index),
                1, &scale);
  return scale;
}

void PackScales(const WeightView& weight, PairKind kind, int64_t first_row,
                int64_t rows, uint8_t* scales) {
  const int64_t groups = weight.scales.dim(1);
  for (int64_t g = 0; g < groups; ++g) {
    if (kind == PairKind::kE4M3) {
      const float scale = TileScale(weight, first_row, g);
      std::memcpy(scales + 4 * g, &scale, sizeof(scale));
      continue;
    }
    for (int64_t r = 0; r < rows; ++r) {
      scales[kPairTileRows * g + r] =
          Bytes(weight.scales)[(first_row + r) * groups + g];
    }
  }
}

}  // namespace

bool CanPackPairs(const WeightView& weight) {
  switch (weight.data.dtype) {
    case DType::kBF16:
      return true;
    case DType::kF8E4M3:
      return weight.scale_cols > 0 && weight.scale_cols % 8 == 0 &&
             weight.scale_rows > 0 && weight.scale_rows % kPairTileRows == 0 &&
             !HasNan(Bytes(weight.data), weight.data.num_elements());
    case DType::kF4E2M1: {
      if (weight.scale_rows != 1 || weight.scale_cols <= 0 ||
          weight.scale_cols % 8 != 0 || weight.scales.dtype != DType::kF8E8M0) {
        return false;
      }
      const uint8_t* scales = Bytes(weight.scales);
      return std::all_of(scales, scales + weight.scales.num_elements(),
                         [](uint8_t e) { return e != 0 && e != 0xff; });
    }
    default:
      return false;
  }
}

PairTiles PairLayout(const WeightView& weight) {
  PairTiles tiles;
  tiles.kind = KindOf(weight.data.dtype);
  tiles.out_features = weight.out_features();
  tiles.in_features = weight.in_features();
  tiles.group = weight.scale_cols;
  if (tiles.kind != PairKind::kBf16) {
    const int64_t bytes = tiles.kind == PairKind::kE4M3 ? 4 : kPairTileRows;
    // Groups of padded columns beyond the stored ones have a scale of zero.
    const int64_t groups =
        (PairColumns(tiles.in_features) + tiles.group - 1) / tiles.group;
    tiles.scale_bytes = (groups * bytes + 63) / 64 * 64;
  }
  tiles.tile_bytes = tiles.scale_bytes + PairColumns(tiles.in_features) /
                                             StepColumns(tiles.kind) *
                                             kStepBytes;
  return tiles;
}

void PackPairTiles(const WeightView& weight, const PairTiles& tiles,
                   int64_t begin, int64_t end, uint8_t* out) {
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t row = tile * kPairTileRows;
    const int64_t rows =
        std::min<int64_t>(kPairTileRows, weight.out_features() - row);
    uint8_t* place = out + tile * tiles.tile_bytes;
    uint8_t* codes = place + tiles.scale_bytes;
    if (tiles.kind != PairKind::kBf16) {
      PackScales(weight, tiles.kind, row, rows, place);
    }
    switch (tiles.kind) {
      case PairKind::kBf16:
        PackCodes<PairKind::kBf16>(weight, row, rows, codes);
        break;
      case PairKind::kE4M3:
        PackCodes<PairKind::kE4M3>(weight, row, rows, codes);
        break;
      case PairKind::kE2M1:
        PackCodes<PairKind::kE2M1>(weight, row, rows, codes);
        break;
    }
  }
}

}  // namespace shoal
