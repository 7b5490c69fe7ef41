// How a persistent grid finds its work among ragged sequences: the rows of
// sequence s, q_len(s) · rows_per_token, are cut into tiles, tiles are numbered
// through. Sequences with fewer rows than a kernel is for, or more, have none.
#pragma once

#include <limits>

#include "kernels/cuda/device_math.cuh"

namespace shoal::cuda {

struct SequenceTile {
  int32_t seq = -1;         // -1: there is no such tile
  int32_t first_token = 0;  // of the sequence in the batch
  int32_t q_len = 0;
  int32_t tile = 0;  // within the sequence
};

struct SequenceTiles {
  const int32_t* cu_seqlens_q;
  int32_t num_seqs;
  int32_t rows_per_token;
  int32_t rows_per_tile;
  int32_t least_rows = 0;
  int32_t most_rows = std::numeric_limits<int32_t>::max();

  __device__ __forceinline__ int32_t TilesOf(int32_t q_len) const {
    const int32_t rows = q_len * rows_per_token;
    if (rows < least_rows || rows > most_rows) return 0;
    return (rows + rows_per_tile - 1) / rows_per_tile;
  }

  // Whether every sequence has one new token, as in a decode step.
  __device__ __forceinline__ bool AllDecode() const {
    return cu_seqlens_q[num_seqs] == num_seqs;
  }

  // Tile number `index` of all. Every lane of a warp gets it; all 32 call.
  __device__ __forceinline__ SequenceTile Find(int64_t index) const {
    SequenceTile found;
    if (AllDecode()) {
      const int32_t each = TilesOf(1);
      if (index >= int64_t{num_seqs} * each) return found;
      found.seq = static_cast<int32_t>(index / each);
      found.tile = static_cast<int32_t>(index % each);
      found.first_token = found.seq;
      found.q_len = 1;
      return found;
    }
    const int lane = threadIdx.x % kWarpSize;
    int64_t before = 0;  // tiles of the sequences before these 32
    for (int32_t base = 0; base < num_seqs; base += kWarpSize) {
      const int32_t s = base + lane;
      const int32_t q_len =
          s < num_seqs ? cu_seqlens_q[s + 1] - cu_seqlens_q[s] : 0;
      const int32_t own = TilesOf(q_len);
      int32_t through = own;  // tiles up to and with this lane's
#pragma unroll
      for (int delta = 1; delta < kWarpSize; delta *= 2) {
        const int32_t other = __shfl_up_sync(kAllLanes, through, delta);
        if (lane >= delta) through += other;
      }
      const bool here =
          index >= before + through - own && index < before + through;
      const unsigned lanes = __ballot_sync(kAllLanes, here);
      if (lanes != 0) {
        const int owner = __popc((lanes & (~lanes + 1)) - 1);
        found.seq = base + owner;
        found.tile =
            static_cast<int32_t>(index - before -
                                 (__shfl_sync(kAllLanes, through, owner) -
                                  __shfl_sync(kAllLanes, own, owner)));
        found.first_token = cu_seqlens_q[found.seq];
        found.q_len = cu_seqlens_q[found.seq + 1] - found.first_token;
        return found;
      }
      before += __shfl_sync(kAllLanes, through, kWarpSize - 1);
    }
    return found;
  }
};

}  // namespace shoal::cuda
