#include "kernels/cpu/linear_jobs.h"

#include <algorithm>

namespace shoal::cpu {
namespace {

// Stored rows widened at a time: enough for the float kernel's blocks.
constexpr int64_t kWidened = 4;

}  // namespace

void ForRows(ThreadPool& pool, int64_t rows, int64_t width,
             const std::function<void(int64_t, int64_t)>& body) {
  const int64_t enough = std::max<int64_t>(1, kSmallWork / (width + 1));
  const int64_t pieces = 4 * pool.num_threads();
  const int64_t even = (rows + pieces - 1) / pieces;
  pool.For(rows, std::max(enough, even),
           [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

RoundedRows RowRounder::Round(const CpuOps& ops, ThreadPool& pool,
                              const float* in, int64_t num_tokens,
                              int64_t in_features) {
  const int64_t groups = in_features / kGroup;
  if (static_cast<int64_t>(groups_.size()) < num_tokens * groups) {
    groups_.resize(num_tokens * groups);
  }
  ForRows(pool, num_tokens, in_features, [&](int64_t begin, int64_t end) {
    ops.round_rows(in, in_features, begin, end, groups_.data());
  });
  return {groups_.data(), num_tokens, in_features};
}

// A unit is a tile of rows (tiles) or one row (floats, stored).
void LinearRunner::RunUnits(const CpuOps& ops, const LinearJob& job,
                            int64_t begin, int64_t end,
                            std::vector<float>* row) {
  const CpuMatrix& matrix = *job.matrix;
  switch (matrix.form()) {
    case CpuMatrix::Form::kTiles:
      ops.int_linear(matrix.kind(), matrix.tiles(), job.rounded, job.out, begin,
                     end);
      return;
    case CpuMatrix::Form::kFloats:
      ops.float_linear(matrix.floats(), job.in, job.num_tokens, job.out, begin,
                       end);
      return;
    case CpuMatrix::Form::kStored: {
      const int64_t in_features = matrix.in_features();
      if (static_cast<int64_t>(row->size()) < kWidened * in_features) {
        row->resize(kWidened * in_features);
      }
      const FloatRows floats = {row->data(), DType::kF32, in_features};
      for (int64_t r = begin; r < end; r += kWidened) {
        const int64_t count = std::min(kWidened, end - r);
        for (int64_t i = 0; i < count; ++i) {
          ops.widen_row(matrix.stored(), r + i, row->data() + i * in_features);
        }
        LinearOut shifted = job.out;
        shifted.out += r;
        if (shifted.bias != nullptr) shifted.bias += r;
        ops.float_linear(floats, job.in, job.num_tokens, shifted, 0, count);
      }
      return;
    }
  }
}

void LinearRunner::Run(const CpuOps& ops, ThreadPool& pool,
                       std::span<const LinearJob> jobs) {
  first_units_.clear();
  int64_t num_units = 0;
  int64_t work = 0;  // multiply-adds
  for (const LinearJob& job : jobs) {
    first_units_.push_back(num_units);
    const int64_t rows = job.matrix->out_features();
    const bool tiles = job.matrix->form() == CpuMatrix::Form::kTiles;
    num_units += tiles ? (rows + ops.tile_rows - 1) / ops.tile_rows : rows;
    work += rows * job.matrix->in_features() * job.num_tokens;
  }
  first_units_.push_back(num_units);
  if (num_units == 0) return;
  // Some sixteen pieces a thread, but none below what a hand-out costs.
  const int64_t even = num_units / (16 * pool.num_threads());
  const int64_t enough = 1 + kSmallWork / (work / num_units + 1);
  pool.For(num_units, std::max<int64_t>({even, enough, 1}),
           [&](int64_t begin, int64_t end, int thread) {
             auto next = std::upper_bound(first_units_.begin(),
                                          first_units_.end(), begin);
             for (; begin < end; ++next) {
               const auto j =
                   static_cast<size_t>(next - first_units_.begin()) - 1;
               const int64_t last = std::min(end, *next);
               RunUnits(ops, jobs[j], begin - first_units_[j],
                        last - first_units_[j], &rows_[thread]);
               begin = last;
             }
           });
}

}  // namespace shoal::cpu
