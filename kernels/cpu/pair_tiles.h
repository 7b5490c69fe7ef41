// Repacking of stored weights into PairTiles.
#pragma once

#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/linear.h"

namespace shoal {

// Whether a matrix has the form: BF16; FP8 (E4M3) without NaN whose scales
// cover whole tiles; FP4 with E8M0 scales a row that are normal f32 numbers.
// Reads the codes of FP8 and the scales of FP4.
bool CanPackPairs(const WeightView& weight);

// All but `data`. REQUIRES, here and below: CanPackPairs(weight).
PairTiles PairLayout(const WeightView& weight);

inline int64_t NumPairTiles(int64_t out_features) {
  return (out_features + kPairTileRows - 1) / kPairTileRows;
}

// Tiles [begin, end) into `out`, the first tile's place. REQUIRES: zeros there.
void PackPairTiles(const WeightView& weight, const PairTiles& tiles,
                   int64_t begin, int64_t end, uint8_t* out);

}  // namespace shoal
