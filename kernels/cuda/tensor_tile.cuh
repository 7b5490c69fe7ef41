// AttentionTile's work on the tensor cores, for bf16 caches: queries and
// softmax weights are rounded to bf16, sums are f32. The same interface and the
// same chunks, merged alike (attention_tile.cuh).
//
// Who does what (kTileThreads threads, 8 warps), of a step of 64 keys:
//   scores: a warp has 16 rows and 16 keys, or 8 keys where there are no more
//           than 16 rows
//   softmax: warp w has rows w, w + 8, w + 16, w + 24; a lane two keys
//   values: a warp has all rows of eight columns in every 64
// While a step is computed the keys of the next are on their way.
#pragma once

#include <initializer_list>

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace shoal::cuda {

// kColumnTiles: of eight columns, a warp's; value_dim <= 64 · kColumnTiles.
template <int kColumnTiles>
class TensorTile {
 public:
  // Thread blocks that a multiprocessor should have room for.
  static constexpr unsigned kBlocks = kColumnTiles <= 2 ? 2 : 1;

  // `shared`: shape.shared_floats() floats, 16-byte aligned.
  __device__ __forceinline__ TensorTile(const TileShape& shape, float* shared)
      : shape_(shape) {
    auto* halves = reinterpret_cast<uint16_t*>(shared);
    q_ = halves;
    keys_ = q_ + kMaxRows * shape.half_stride(shape.key_dim);
    weights_ = keys_ + 2 * shape.step_halves();
    scores_ = reinterpret_cast<float*>(weights_ + kMaxRows * kWeightStride);
    shrinks_ = scores_ + kMaxRows * kScoreStride;
    factors_ = shrinks_ + kMaxRows;
    limits_ = reinterpret_cast<int32_t*>(factors_ + 2 * kMaxRows);
    places_ = reinterpret_cast<int64_t*>(limits_ + kMaxRows);
    lane_ = static_cast<int>(threadIdx.x) % kWarpSize;
    warp_ = static_cast<int>(threadIdx.x) / kWarpSize;
    key_pieces_.Set(shape.key_dim);
    value_pieces_.Set(shape.value_dim);
  }

  __device__ __forceinline__ void SetQuery(int32_t r, const float* from) {
    uint16_t* row = q_ + r * shape_.half_stride(shape_.key_dim);
#pragma unroll 5
    for (int32_t d = 4 * lane_; d < shape_.key_dim; d += 4 * kWarpSize) {
      const float4 x = LoadQuery4(from, d, shape_.key_dim);
      *reinterpret_cast<uint2*>(row + d) = {PackBF16(x.x, x.y),
                                            PackBF16(x.z, x.w)};
    }
  }
  __device__ __forceinline__ int32_t& limit(int32_t r) { return limits_[r]; }

  __device__ __forceinline__ void Begin(int32_t num_rows) {
    num_rows_ = num_rows;
    row_tiles_ = num_rows > 16 ? 2 : 1;
    most_keys_ = 0;
    __syncthreads();
    for (int32_t r = 0; r < num_rows; ++r) {
      most_keys_ = limits_[r] > most_keys_ ? limits_[r] : most_keys_;
    }
    // Rows that are not there.
    for (int32_t r = num_rows + warp_; r < 16 * row_tiles_; r += kTileWarps) {
      uint16_t* row = q_ + r * shape_.half_stride(shape_.key_dim);
      for (int32_t d = lane_; d < shape_.key_dim; d += kWarpSize) row[d] = 0;
    }
    softmax_.Begin();
    Reset(total_);
    Reset(acc_);
  }

  __device__ __forceinline__ void SetSource(DType /*dtype*/, bool /*aligned*/) {
  }
  __device__ __forceinline__ int32_t most_keys() const { return most_keys_; }

  template <typename Places>
  __device__ __forceinline__ void AttendTo(const void* keys, const void* values,
                                           int32_t begin, int32_t end,
                                           float scale, const Places& places) {
    for (int32_t i = threadIdx.x; i < end - begin; i += kTileThreads) {
      places_[i] = places(begin + i);
    }
    __syncthreads();
    int buffer = 0;
    Fetch(keys, values, 0, end - begin, buffer);
    for (int32_t first = begin; first < end; first += kStepKeys) {
      const int32_t next = first + kStepKeys;
      if (next < end) {
        Fetch(keys, values, next - begin, end - begin, 1 - buffer);
        WaitForCopies<1>();
      } else {
        WaitForCopies<0>();
      }
      __syncthreads();
      row_tiles_ == 2 ? Score<2>(buffer) : Score<1>(buffer);
      __syncthreads();
      Weigh(first, end - first, scale);
      __syncthreads();
      row_tiles_ == 2 ? AddValues<2>(buffer) : AddValues<1>(buffer);
      __syncthreads();
      buffer = 1 - buffer;
    }
  }

  __device__ __forceinline__ void CloseChunk() {
    softmax_.CloseChunk(factors_);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t r = 16 * m + lane_ / 4 + 8 * half;
        const float old_factor = factors_[r];
        const float new_factor = factors_[kMaxRows + r];
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            total_[m][n][i] =
                fmaf(total_[m][n][i], old_factor, acc_[m][n][i] * new_factor);
          }
        }
      }
    }
    __syncthreads();
    softmax_.OpenChunk();
    Reset(acc_);
  }

  template <typename Sink, typename RowOf>
  __device__ __forceinline__ void Finish(const Sink& sink,
                                         const RowOf& row_of) {
    softmax_.Finish(num_rows_, sink, factors_);
    __syncthreads();
    Write(total_, row_of, [&](int32_t r, float x) {
      return x * factors_[r] / factors_[kMaxRows + r];
    });
    __syncthreads();
  }

  template <typename RowOf, typename WriteState>
  __device__ __forceinline__ void TakeChunk(const RowOf& row_of,
                                            const WriteState& write_state) {
    softmax_.TakeChunk(num_rows_, write_state);
    Write(acc_, row_of, [](int32_t, float x) { return x; });
    Reset(acc_);
    __syncthreads();
  }

 private:
  static constexpr int kStepKeys = TileShape::kStepKeys;
  static constexpr int kWeightStride = TileShape::kWeightStride;
  static constexpr int kScoreStride = TileShape::kScoreStride;
  using Sums = float[2][kColumnTiles][4];  // row tiles, column tiles

  static __device__ __forceinline__ void Reset(Sums& sums) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[m][n][i] = 0;
      }
    }
  }

  // This thread's part of rows to where row_of(row) says.
  template <typename RowOf, typename Scale>
  __device__ __forceinline__ void Write(const Sums& sums, const RowOf& row_of,
                                        const Scale& scale) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t r = 16 * m + lane_ / 4 + 8 * half;
        if (r >= num_rows_) continue;
        float* row = row_of(r) + 8 * warp_ + lane_ % 4 * 2;
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          if (64 * n + 8 * warp_ >= shape_.value_dim) continue;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            row[64 * n + i] = scale(r, sums[m][n][2 * half + i]);
          }
        }
      }
    }
  }

  __device__ __forceinline__ uint16_t* keys(int buffer) {
    return keys_ + buffer * shape_.step_halves();
  }
  __device__ __forceinline__ uint16_t* values(int buffer) {
    return keys(buffer) +
           (shape_.shared_values
                ? 0
                : kStepKeys * shape_.half_stride(shape_.key_dim));
  }

  // A thread's share of rows of pieces of 16 bytes, which all threads take in
  // turn: where it begins and how far its next one is, without divisions.
  struct Pieces {
    int32_t width, in_row, first_row, first_piece, rows_on, pieces_on;

    __device__ __forceinline__ void Set(int32_t row_width) {
      width = row_width;
      in_row = row_width / 8;
      first_row = static_cast<int32_t>(threadIdx.x) / in_row;
      first_piece = static_cast<int32_t>(threadIdx.x) % in_row;
      rows_on = kTileThreads / in_row;
      pieces_on = kTileThreads % in_row;
    }
  };

  // Has the chunk's keys [first, first + kStepKeys) copied, zeros for those
  // from `count` on: what lies in unwritten cache may be NaN.
  __device__ __forceinline__ void Fetch(const void* keys_from,
                                        const void* values_from, int32_t first,
                                        int32_t count, int buffer) {
    FetchRows(keys_from, key_pieces_, first, count, keys(buffer));
    if (!shape_.shared_values) {
      FetchRows(values_from, value_pieces_, first, count, values(buffer));
    }
    CommitCopies();
  }
  __device__ __forceinline__ void FetchRows(const void* from,
                                            const Pieces& pieces, int32_t first,
                                            int32_t count, uint16_t* to) {
    const int32_t stride = shape_.half_stride(pieces.width);
    const auto* halves = static_cast<const uint16_t*>(from);
    if (pieces.in_row >= kWarpSize) {  // long rows: a warp has whole ones
      constexpr int kTogether = 3;     // MLA's rows have 72 pieces
#pragma unroll 1
      for (int32_t row = warp_; row < kStepKeys; row += kTileWarps) {
        const bool there = first + row < count;
        const int64_t place = there ? places_[first + row] : 0;
        const uint16_t* source = halves + place * pieces.width + 8 * lane_;
        uint16_t* target = to + row * stride + 8 * lane_;
#pragma unroll 1
        for (int32_t left = pieces.in_row - lane_; left > 0;
             left -= kTogether * kWarpSize) {
#pragma unroll
          for (int32_t j = 0; j < kTogether; ++j) {
            if (j * kWarpSize >= left) continue;
            CopyAsync16(target + 8 * kWarpSize * j, source + 8 * kWarpSize * j,
                        !there);
          }
          target += 8 * kTogether * kWarpSize;
          source += 8 * kTogether * kWarpSize;
        }
      }
      return;
    }
    int32_t row = pieces.first_row;
    int32_t piece = pieces.first_piece;
    while (row < kStepKeys) {
      const bool there = first + row < count;
      const int64_t place = there ? places_[first + row] * pieces.width : 0;
      CopyAsync16(to + row * stride + piece * 8, halves + place + piece * 8,
                  !there);
      row += pieces.rows_on;
      piece += pieces.pieces_on;
      if (piece >= pieces.in_row) {
        piece -= pieces.in_row;
        ++row;
      }
    }
  }

  // Products of queries and keys, [row][key], unscaled.
  template <int kRowTiles>
  __device__ __forceinline__ void Score(int buffer) {
    const int32_t width = shape_.key_dim;
    const int32_t stride = shape_.half_stride(width);
    const int m = kRowTiles == 2 ? warp_ / 4 : 0;
    const int first_key = kRowTiles == 2 ? warp_ % 4 * 16 : warp_ * 8;
    // Rows and columns of the four tiles that a load brings: those of queries
    // are (row 0, 0), (row 8, 0), (row 0, 8), (row 8, 8); those of keys (key 0,
    // 0), (key 0, 8), (key 8, 0), (key 8, 8) or, of eight keys, 32 columns.
    const uint16_t* a_row =
        q_ + (16 * m + lane_ % 8 + lane_ / 8 % 2 * 8) * stride + lane_ / 16 * 8;
    const int key =
        first_key + lane_ % 8 + (kRowTiles == 2 ? lane_ / 16 * 8 : 0);
    const uint16_t* b_row = keys(buffer) + key * stride +
                            (kRowTiles == 2 ? lane_ / 8 % 2 : lane_ / 8) * 8;
    // Several sums a dot, so that products need not wait for each other: four
    // for long rows, two for those that warpgroups have in their registers.
    constexpr int kChains = kColumnTiles > 2 ? 4 : 2;
    constexpr int32_t kRound = 16 * kChains;
    float chains[kChains][2][4] = {};
    const auto round = [&](int32_t base, int32_t end) {
      uint32_t b[4];
#pragma unroll
      for (int c = 0; c < kChains; ++c) {
        const int32_t d = base + 16 * c;
        if (d >= end) continue;
        // Past a row's end lies memory of the next one, which is not used.
        if (kRowTiles == 2 || c % 2 == 0) LoadTiles4<false>(b_row + d, b);
        uint32_t a[4];
        LoadTiles4<false>(a_row + d, a);
        const int at = kRowTiles == 2 ? 0 : c % 2 * 2;
        const uint32_t left[2] = {b[at], b[at + 1]};
        MultiplyTile(a, left, chains[c][0]);
        if constexpr (kRowTiles == 2) {
          const uint32_t right[2] = {b[2], b[3]};
          MultiplyTile(a, right, chains[c][1]);
        }
      }
    };
    int32_t base = 0;
    for (; base + kRound <= width; base += kRound) round(base, base + kRound);
    if (base < width) round(base, width);
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = chains[0][n][i] + chains[1][n][i];
        if constexpr (kChains == 4) sum += chains[2][n][i] + chains[3][n][i];
        const int row = 16 * m + lane_ / 4 + (i >= 2 ? 8 : 0);
        scores_[row * kScoreStride + first_key + 8 * n + lane_ % 4 * 2 +
                i % 2] = sum;
      }
    }
  }

  // Weights of the step's keys, of which `count` are there, and what they do to
  // the running maxima and sums.
  __device__ __forceinline__ void Weigh(int32_t first, int32_t count,
                                        float scale) {
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int r = warp_ + kTileWarps * i;
      if (r >= 16 * row_tiles_) continue;
      float score[2];
      float most = kMinusInfinity;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t key = lane_ + kWarpSize * half;
        const bool seen =
            r < num_rows_ && key < count && first + key < limits_[r];
        score[half] =
            seen ? scores_[r * kScoreStride + key] * scale : kMinusInfinity;
        // A score that is NaN is seen: it must show in the result.
        most = fmaxf(most, score[half]);
      }
      float top = WarpMax(most);
      const float shrink = softmax_.Raise(i, &top);
      float sum = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float weight =
            score[half] == kMinusInfinity ? 0.0f : expf(score[half] - top);
        weights_[r * kWeightStride + lane_ + kWarpSize * half] =
            NarrowBF16(weight);
        sum += weight;
      }
      softmax_.Add(i, shrink, WarpSum(sum));
      if (lane_ == 0) shrinks_[r] = shrink;
    }
  }

  template <int kRowTiles>
  __device__ __forceinline__ void AddValues(int buffer) {
    const int32_t stride = shape_.half_stride(
        shape_.shared_values ? shape_.key_dim : shape_.value_dim);
    const uint16_t* value_row = values(buffer) + lane_ * stride + 8 * warp_;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const float upper = shrinks_[16 * m + lane_ / 4];
      const float lower = shrinks_[16 * m + lane_ / 4 + 8];
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        acc_[m][n][0] *= upper, acc_[m][n][1] *= upper;
        acc_[m][n][2] *= lower, acc_[m][n][3] *= lower;
      }
    }
#pragma unroll
    for (int half = 0; half < kStepKeys / 32; ++half) {
      uint32_t a[kRowTiles][2][4];  // row tiles, 16 keys each
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          LoadTiles4<false>(
              weights_ +
                  (16 * m + lane_ % 8 + lane_ / 8 % 2 * 8) * kWeightStride +
                  32 * half + 16 * k + lane_ / 16 * 8,
              a[m][k]);
        }
      }
      // Two column tiles at a time, so that products need not wait for each
      // other.
#pragma unroll
      for (int n = 0; n < kColumnTiles; n += 2) {
        uint32_t b[2][4];  // 32 keys of eight columns each
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (64 * (n + i) + 8 * warp_ >= shape_.value_dim) continue;
          LoadTiles4<true>(value_row + 32 * half * stride + 64 * (n + i), b[i]);
        }
#pragma unroll
        for (int k = 0; k < 2; ++k) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (64 * (n + i) + 8 * warp_ >= shape_.value_dim) continue;
            const uint32_t keys[2] = {b[i][2 * k], b[i][2 * k + 1]};
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
              MultiplyTile(a[m][k], keys, acc_[m][n + i]);
            }
          }
        }
      }
    }
  }

  const TileShape shape_;
  uint16_t* q_;        // [kMaxRows, key_dim], rows half_stride() apart
  uint16_t* keys_;     // two of [kStepKeys, key_dim], and values unless shared
  uint16_t* weights_;  // [kMaxRows, kWeightStride]
  float* scores_;      // [kMaxRows, kScoreStride]
  float* shrinks_;     // [kMaxRows]
  float* factors_;     // [2, kMaxRows]
  int32_t* limits_;    // [kMaxRows]
  int64_t* places_;    // [kChunkKeys], in rows
  Pieces key_pieces_, value_pieces_;
  int lane_, warp_;
  int32_t num_rows_ = 0, row_tiles_ = 1, most_keys_ = 0;
  RowSoftmax softmax_;
  Sums acc_, total_;
};

// Whether a TensorTile may have this shape, with keys and values at `arrays`.
inline bool FitsTensorTile(const TileShape& shape,
                           std::initializer_list<const void*> arrays) {
  for (const void* array : arrays) {
    if (reinterpret_cast<uintptr_t>(array) % 16 != 0) return false;
  }
  return shape.dtype == DType::kBF16 && shape.key_dim % 16 == 0 &&
         shape.value_dim % 8 == 0 && shape.value_dim <= 512;
}

// Calls `function` with the tile type of shape.tensor and shape.value_dim.
template <typename Function>
void WithTile(const TileShape& shape, const Function& function) {
  if (!shape.tensor) {
    function.template operator()<AttentionTile>();
  } else if (shape.value_dim <= 128) {
    function.template operator()<TensorTile<2>>();
  } else {
    function.template operator()<TensorTile<8>>();
  }
}

}  // namespace shoal::cuda
