// The attention that all attention kernels run: up to kMaxRows query rows of a
// thread block against keys that come in tiles of kTileKeys, as running
// softmaxes. Plain f32 arithmetic.
//
// Work over a row's keys is cut at multiples of kChunkKeys into chunks, each a
// softmax of its own, which are merged in rising order. Where the cuts are
// depends on the key alone, so a row has the same bits whether one thread block
// runs all its chunks or each runs in its own (Merge()), in any batch.
//
// Who does what (kTileThreads threads, 8 warps):
//   scores: warp w has rows w, w + 8, w + 16, w + 24; lane = key
//   values: thread has columns c and c + 256 of kRowsOfThread neighbouring rows
#pragma once

#include "kernels/cuda/device_math.cuh"

namespace shoal::cuda {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileWarps = kTileThreads / kWarpSize;
inline constexpr int kTileKeys = kWarpSize;
inline constexpr int kChunkKeys = 256;
inline constexpr int kMaxRows = 32;
inline constexpr int kRowsOfThread = 16;
inline constexpr int kMaxValueDim = 2 * kTileThreads;
inline constexpr int kRowsOfWarp = kMaxRows / kTileWarps;

// Sizes that host and device agree on.
struct TileShape {
  int32_t key_dim = 0;
  int32_t value_dim = 0;       // <= kMaxValueDim
  bool shared_values = false;  // a value is the beginning of its key
  DType dtype = DType::kF32;   // of keys and values
  bool aligned = false;        // four elements can be loaded at once
  bool tensor = false;         // for a TensorTile (tensor_tile.cuh)

  // Of a TensorTile: keys of a step, and strides of its weights and scores.
  static constexpr int kStepKeys = 64;
  static constexpr int kWeightStride = kStepKeys + 8;
  static constexpr int kScoreStride = kStepKeys + 4;

  __host__ __device__ int32_t key_stride() const {
    return (key_dim + 3) / 4 * 4 + 4;  // four lanes' words apart: no conflicts
  }
  __host__ __device__ int32_t query_stride() const {
    return (key_dim + 3) / 4 * 4;
  }
  // Threads that share a column of values, each with its own rows.
  __host__ __device__ int32_t row_groups() const {
    return value_dim >= kTileThreads ? 1 : kTileThreads / value_dim;
  }
  // Query rows of a thread block.
  __host__ __device__ int32_t rows() const {
    if (tensor) return kMaxRows;
    const int32_t rows = row_groups() * kRowsOfThread;
    return rows < kMaxRows ? rows : kMaxRows;
  }
  // Of rows of halves: those of eight neighbours begin in different banks.
  __host__ __device__ int32_t half_stride(int32_t width) const {
    return width + 8;
  }
  // Of a TensorTile's keys and values of a step.
  __host__ __device__ int32_t step_halves() const {
    return kStepKeys * (half_stride(key_dim) +
                        (shared_values ? 0 : half_stride(value_dim)));
  }
  __host__ __device__ int32_t shared_floats() const {
    if (tensor) {
      return (kMaxRows * (half_stride(key_dim) + kWeightStride)) / 2 +
             step_halves() + kMaxRows * kScoreStride + 4 * kMaxRows +
             2 * kChunkKeys;
    }
    return rows() * query_stride() + kTileKeys * key_stride() +
           (shared_values ? 0 : kTileKeys * value_dim) + kTileKeys * kMaxRows +
           2 * kMaxRows + 2 * kTileKeys;
  }
};

// e^(max - top), 1 where nothing has been seen yet on either side.
__device__ __forceinline__ float SoftmaxFactor(float max, float top) {
  return top == kMinusInfinity ? 1.0f : expf(max - top);
}

// Maxima and sums of a warp's rows (warp w has rows w, w + 8, …), of the open
// chunk and in total; the same in every lane.
class RowSoftmax {
 public:
  __device__ __forceinline__ void Begin() {
    Reset(total_max_, total_sum_);
    OpenChunk();
  }
  __device__ __forceinline__ void OpenChunk() { Reset(max_, sum_); }

  // Row i of the warp sees scores of at most `top`: what its sums so far are to
  // be multiplied by. `top` becomes the new maximum.
  __device__ __forceinline__ float Raise(int i, float* top) {
    *top = fmaxf(max_[i], *top);
    const float shrink = SoftmaxFactor(max_[i], *top);
    max_[i] = *top;
    return shrink;
  }
  __device__ __forceinline__ void Add(int i, float shrink, float weights) {
    sum_[i] = fmaf(sum_[i], shrink, weights);
  }

  // Merges the open chunk into the total. factors[r], factors[kMaxRows + r]:
  // what row r's total and chunk of values are to be multiplied by, for that.
  __device__ __forceinline__ void CloseChunk(float* factors) {
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const float top = fmaxf(total_max_[i], max_[i]);
      const float old_factor = SoftmaxFactor(total_max_[i], top);
      const float new_factor = SoftmaxFactor(max_[i], top);
      total_sum_[i] = fmaf(total_sum_[i], old_factor, sum_[i] * new_factor);
      total_max_[i] = top;
      if (threadIdx.x % kWarpSize == 0) {
        factors[Row(i)] = old_factor;
        factors[kMaxRows + Row(i)] = new_factor;
      }
    }
  }

  // factors[r], factors[kMaxRows + r]: what the total of row r's values is to
  // be multiplied and divided by. sink(row): see AttentionTile::Finish().
  template <typename Sink>
  __device__ __forceinline__ void Finish(int32_t num_rows, const Sink& sink,
                                         float* factors) {
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int r = Row(i);
      if (r < num_rows && threadIdx.x % kWarpSize == 0) {
        const float extra = sink(r);
        const float top = fmaxf(total_max_[i], extra);
        const float own = SoftmaxFactor(total_max_[i], top);
        const float sum =
            fmaf(total_sum_[i], own,
                 extra == kMinusInfinity ? 0.0f : expf(extra - top));
        // No key at all: a zero row, and not its division by zero.
        factors[r] = own;
        factors[kMaxRows + r] = sum == 0 ? 1.0f : sum;
      }
    }
  }

  // write(row, largest score, sum of weights) of the open chunk.
  template <typename Write>
  __device__ __forceinline__ void TakeChunk(int32_t num_rows,
                                            const Write& write) {
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      if (Row(i) < num_rows && threadIdx.x % kWarpSize == 0) {
        write(Row(i), max_[i], sum_[i]);
      }
    }
    OpenChunk();
  }

 private:
  static __device__ __forceinline__ int Row(int i) {
    return static_cast<int>(threadIdx.x) / kWarpSize + kTileWarps * i;
  }
  static __device__ __forceinline__ void Reset(float (&max)[kRowsOfWarp],
                                               float (&sum)[kRowsOfWarp]) {
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      max[i] = kMinusInfinity;
      sum[i] = 0;
    }
  }

  float max_[kRowsOfWarp], sum_[kRowsOfWarp];
  float total_max_[kRowsOfWarp], total_sum_[kRowsOfWarp];
};

// Values [d, d + 4) of a row of `width`, zeros past its end.
__device__ __forceinline__ float4 LoadQuery4(const float* row, int32_t d,
                                             int32_t width) {
  if (reinterpret_cast<uintptr_t>(row) % 16 == 0 && d + 4 <= width) {
    return *reinterpret_cast<const float4*>(row + d);
  }
  return {d < width ? row[d] : 0, d + 1 < width ? row[d + 1] : 0,
          d + 2 < width ? row[d + 2] : 0, d + 3 < width ? row[d + 3] : 0};
}

class AttentionTile {
 public:
  // Thread blocks that a multiprocessor should have room for.
  static constexpr unsigned kBlocks = 1;

  // `shared`: shape.shared_floats() floats, 16-byte aligned.
  __device__ __forceinline__ AttentionTile(const TileShape& shape,
                                           float* shared)
      : shape_(shape) {
    queries_ = shared;
    keys_ = queries_ + shape.rows() * shape.query_stride();
    values_ = keys_ + kTileKeys * shape.key_stride();
    weights_ =
        values_ + (shape.shared_values ? 0 : kTileKeys * shape.value_dim);
    shrinks_ = weights_ + kTileKeys * kMaxRows;
    limits_ = reinterpret_cast<int32_t*>(shrinks_ + kMaxRows);
    places_ = reinterpret_cast<int64_t*>(limits_ + kMaxRows);
    const int32_t columns =
        shape.value_dim < kTileThreads ? shape.value_dim : kTileThreads;
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    column_ = thread % columns;
    first_row_ = thread / columns * kRowsOfThread;
  }

  // Keys that row r sees: written before Begin().
  __device__ __forceinline__ int32_t& limit(int32_t r) { return limits_[r]; }
  // Query row r is `from` [key_dim]. All of a warp call it, before Begin().
  __device__ __forceinline__ void SetQuery(int32_t r, const float* from) {
    const int32_t stride = shape_.query_stride();
    for (int32_t d = threadIdx.x % kWarpSize * 4; d < stride;
         d += 4 * kWarpSize) {
      *reinterpret_cast<float4*>(queries_ + r * stride + d) =
          LoadQuery4(from, d, shape_.key_dim);
    }
  }

  // Starts with `num_rows` rows, nothing attended to.
  __device__ __forceinline__ void Begin(int32_t num_rows) {
    num_rows_ = num_rows;
    my_rows_ = num_rows - first_row_;
    my_rows_ = my_rows_ < 0               ? 0
               : my_rows_ > kRowsOfThread ? kRowsOfThread
                                          : my_rows_;
    if (first_row_ >= shape_.rows()) my_rows_ = 0;
    most_keys_ = 0;
    __syncthreads();
    for (int32_t r = 0; r < num_rows; ++r) {
      most_keys_ = limits_[r] > most_keys_ ? limits_[r] : most_keys_;
    }
    softmax_.Begin();
    Reset(total_);
    Reset(acc_);
  }

  // What AttendTo() reads from now on.
  __device__ __forceinline__ void SetSource(DType dtype, bool aligned) {
    shape_.dtype = dtype;
    shape_.aligned = aligned;
  }

  // Keys that any row sees.
  __device__ __forceinline__ int32_t most_keys() const { return most_keys_; }

  // Attends to keys [begin, end) of one chunk, which stays open: places(j) is
  // the row of `keys` and of `values` where key j lies.
  template <typename Places>
  __device__ __forceinline__ void AttendTo(const void* keys, const void* values,
                                           int32_t begin, int32_t end,
                                           float scale, const Places& places) {
    for (int32_t first = begin; first < end; first += kTileKeys) {
      const int32_t count = end - first < kTileKeys ? end - first : kTileKeys;
      const int32_t thread = static_cast<int32_t>(threadIdx.x);
      if (thread < count) places_[thread] = places(first + thread);
      __syncthreads();
      LoadRows(keys, shape_.key_dim, shape_.key_stride(), count, keys_);
      if (!shape_.shared_values) {
        LoadRows(values, shape_.value_dim, shape_.value_dim, count, values_);
      }
      __syncthreads();
      Score(first, count, scale);
      __syncthreads();
      AddValues();
      __syncthreads();
    }
  }

  // Merges the open chunk into the total and opens the next.
  __device__ __forceinline__ void CloseChunk() {
    const float* old_factors = weights_;
    const float* new_factors = weights_ + kMaxRows;
    softmax_.CloseChunk(weights_);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kRowsOfThread; ++j) {
      if (j < my_rows_) {
        const float old_factor = old_factors[first_row_ + j];
        const float new_factor = new_factors[first_row_ + j];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          total_[c][j] =
              fmaf(total_[c][j], old_factor, acc_[c][j] * new_factor);
        }
      }
    }
    __syncthreads();
    softmax_.OpenChunk();
    Reset(acc_);
  }

  // Writes each row's total, divided by its sum, to row_of(row) [value_dim].
  // sink(row) gives what joins the sum without a value, or minus infinity.
  template <typename Sink, typename RowOf>
  __device__ __forceinline__ void Finish(const Sink& sink,
                                         const RowOf& row_of) {
    const float* factors = weights_;
    softmax_.Finish(num_rows_, sink, weights_);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kRowsOfThread; ++j) {
      if (j < my_rows_) {
        const int32_t r = first_row_ + j;
        Write(total_, j, row_of(r),
              [&](float x) { return x * factors[r] / factors[kMaxRows + r]; });
      }
    }
    __syncthreads();
  }

  // Writes the open chunk's sums of weighted values to row_of(row) [value_dim]:
  // write_state(row, largest score, sum of weights).
  template <typename RowOf, typename WriteState>
  __device__ __forceinline__ void TakeChunk(const RowOf& row_of,
                                            const WriteState& write_state) {
    softmax_.TakeChunk(num_rows_, write_state);
#pragma unroll
    for (int j = 0; j < kRowsOfThread; ++j) {
      if (j < my_rows_) {
        Write(acc_, j, row_of(first_row_ + j), [](float x) { return x; });
      }
    }
    Reset(acc_);
    __syncthreads();
  }

 private:
  template <typename Scale>
  __device__ __forceinline__ void Write(const float (&sums)[2][kRowsOfThread],
                                        int j, float* row, const Scale& scale) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int32_t column = column_ + c * kTileThreads;
      if (column < shape_.value_dim) row[column] = scale(sums[c][j]);
    }
  }

  static __device__ __forceinline__ void Reset(float (&acc)[2][kRowsOfThread]) {
#pragma unroll
    for (int j = 0; j < kRowsOfThread; ++j) acc[0][j] = acc[1][j] = 0;
  }

  // Widens the rows at places_ into `to`, zeros for those past `count` (what
  // lies in unwritten cache may be NaN) and past the row's end up to `stride`.
  __device__ __forceinline__ void LoadRows(const void* from, int32_t width,
                                           int32_t stride, int32_t count,
                                           float* to) {
    const int lane = threadIdx.x % kWarpSize;
    for (int t = threadIdx.x / kWarpSize; t < kTileKeys; t += kTileWarps) {
      float* row = to + t * stride;
      if (t >= count) {
        for (int32_t i = lane; i < stride; i += kWarpSize) row[i] = 0;
        continue;
      }
      const int64_t place = places_[t] * width;
      int32_t done = 0;
      if (shape_.aligned) {
        done = width;
        for (int32_t i = 4 * lane; i < width; i += 4 * kWarpSize) {
          *reinterpret_cast<float4*>(row + i) =
              LoadElements4(from, shape_.dtype, place + i);
        }
      }
      for (int32_t i = done + lane; i < stride; i += kWarpSize) {
        row[i] = i < width ? LoadElement(from, shape_.dtype, place + i) : 0;
      }
    }
  }

  // Scores of the tile's keys, [first, first + count), and what they do to the
  // running maxima and sums.
  __device__ __forceinline__ void Score(int32_t first, int32_t count,
                                        float scale) {
    const int lane = threadIdx.x % kWarpSize;
    const int warp = threadIdx.x / kWarpSize;
    // Four sums a dot: shorter chains, smaller roundings.
    float4 dots[kRowsOfWarp] = {};
    const float* key = keys_ + lane * shape_.key_stride();
    const int32_t width = shape_.query_stride();
    for (int32_t d = 0; d < width; d += 4) {
      const float4 k = *reinterpret_cast<const float4*>(key + d);
#pragma unroll
      for (int i = 0; i < kRowsOfWarp; ++i) {
        const int r = warp + kTileWarps * i;
        if (r < num_rows_) {
          const float4 q =
              *reinterpret_cast<const float4*>(queries_ + r * width + d);
          dots[i].x = fmaf(q.x, k.x, dots[i].x);
          dots[i].y = fmaf(q.y, k.y, dots[i].y);
          dots[i].z = fmaf(q.z, k.z, dots[i].z);
          dots[i].w = fmaf(q.w, k.w, dots[i].w);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int r = warp + kTileWarps * i;
      if (r >= num_rows_) {
        weights_[lane * kMaxRows + r] = 0;
        continue;
      }
      const bool seen = lane < count && first + lane < limits_[r];
      const float score =
          ((dots[i].x + dots[i].y) + (dots[i].z + dots[i].w)) * scale;
      float top = WarpMax(seen ? score : kMinusInfinity);
      const float shrink = softmax_.Raise(i, &top);
      const float weight = seen ? expf(score - top) : 0.0f;
      softmax_.Add(i, shrink, WarpSum(weight));
      weights_[lane * kMaxRows + r] = weight;
      if (lane == 0) shrinks_[r] = shrink;
    }
  }

  __device__ __forceinline__ void AddValues() {
    if (my_rows_ == 0) return;
    const float* values = shape_.shared_values ? keys_ : values_;
    const int32_t stride =
        shape_.shared_values ? shape_.key_stride() : shape_.value_dim;
    const bool second = column_ + kTileThreads < shape_.value_dim;
#pragma unroll
    for (int j = 0; j < kRowsOfThread; ++j) {
      if (j < my_rows_) {
        const float shrink = shrinks_[first_row_ + j];
        acc_[0][j] *= shrink;
        acc_[1][j] *= shrink;
      }
    }
    for (int t = 0; t < kTileKeys; ++t) {
      const float v0 = values[t * stride + column_];
      const float v1 =
          second ? values[t * stride + column_ + kTileThreads] : 0.0f;
      const float* weights = weights_ + t * kMaxRows + first_row_;
#pragma unroll
      for (int j = 0; j < kRowsOfThread; j += 4) {
        if (j < my_rows_) {
          const float4 w = *reinterpret_cast<const float4*>(weights + j);
          const float four[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            acc_[0][j + i] = fmaf(four[i], v0, acc_[0][j + i]);
            acc_[1][j + i] = fmaf(four[i], v1, acc_[1][j + i]);
          }
        }
      }
    }
  }

  TileShape shape_;
  float* queries_;   // [rows, query_stride]
  float* keys_;      // [kTileKeys, key_stride]
  float* values_;    // [kTileKeys, value_dim] unless shared
  float* weights_;   // [kTileKeys, kMaxRows]
  float* shrinks_;   // [kMaxRows]
  int32_t* limits_;  // [kMaxRows]
  int64_t* places_;  // [kTileKeys], in rows
  int32_t column_, first_row_;
  int32_t num_rows_ = 0, my_rows_ = 0, most_keys_ = 0;
  RowSoftmax softmax_;
  // Of a thread's rows and columns.
  float acc_[2][kRowsOfThread], total_[2][kRowsOfThread];
};

}  // namespace shoal::cuda
