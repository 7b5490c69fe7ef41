#include "kernels/cpu/linear_jobs.h"

#include <algorithm>

namespace shoal::cpu {
namespace {

// Stored rows widened at a time: enough for the float kernel's blocks.
constexpr int64_t kWidened = 4;

// Items are dealt out over parts that follow each other: part p has those from
// first[p] to first[p + 1]. Calls body(p, begin, end), counted within the part,
// for those in [begin, end).
template <typename Body>
void ForParts(const std::vector<int64_t>& first, int64_t begin, int64_t end,
              const Body& body) {
  auto next = std::upper_bound(first.begin(), first.end(), begin);
  for (; begin < end; ++next) {
    const int64_t last = std::min(end, *next);
    const int64_t start = *(next - 1);
    if (last > begin) {
      body(static_cast<size_t>(next - first.begin()) - 1, begin - start,
           last - start);
    }
    begin = last;
  }
}

// Output rows that are handed out together.
int64_t RowsOfUnit(const CpuOps& ops, const CpuMatrix& matrix) {
  switch (matrix.form()) {
    case CpuMatrix::Form::kTiles:
      return ops.tile_rows;
    case CpuMatrix::Form::kPairs:
      return kPairTileRows;
    default:
      return 1;
  }
}

}  // namespace

void ForRows(ThreadPool& pool, int64_t rows, int64_t width,
             const std::function<void(int64_t, int64_t)>& body) {
  const int64_t enough = std::max<int64_t>(1, kSmallWork / (width + 1));
  const int64_t pieces = 4 * pool.num_threads();
  const int64_t even = (rows + pieces - 1) / pieces;
  pool.For(rows, std::max(enough, even),
           [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

void RowRounder::MakeParts(const CpuOps& ops, int64_t in_features,
                           std::span<const int64_t> first_rows) {
  const size_t num_parts = first_rows.size() - 1;
  const int64_t row_groups = in_features / kGroup;
  parts_.resize(num_parts);
  first_columns_.assign(1, 0);
  const auto num_groups = static_cast<size_t>(first_rows.back() * row_groups);
  if (groups_.size() < num_groups) groups_.resize(num_groups);
  for (size_t p = 0; p < num_parts; ++p) {
    const int64_t count = first_rows[p + 1] - first_rows[p];
    const int64_t panels = (count + ops.max_panel - 1) / ops.max_panel;
    first_columns_.push_back(first_columns_.back() + panels * row_groups);
    parts_[p] = {groups_.data() + first_rows[p] * row_groups, count,
                 in_features};
  }
}

void RowRounder::ForColumns(
    const CpuOps& ops, ThreadPool& pool,
    const std::function<void(size_t, int64_t, int64_t)>& body) {
  ForRows(pool, first_columns_.back(), ops.max_panel * kGroup,
          [&](int64_t begin, int64_t end) {
            ForParts(first_columns_, begin, end, body);
          });
}

std::span<const RoundedRows> RowRounder::Round(
    const CpuOps& ops, ThreadPool& pool, const float* in, int64_t in_features,
    std::span<const int64_t> first_rows) {
  MakeParts(ops, in_features, first_rows);
  ForColumns(ops, pool, [&](size_t p, int64_t first, int64_t last) {
    const RoundedRows& part = parts_[p];
    ops.round_rows(in + first_rows[p] * in_features, in_features,
                   part.num_tokens, first, last,
                   groups_.data() + (part.groups - groups_.data()));
  });
  return parts_;
}

std::span<const RoundedRows> RowRounder::RoundChosen(
    const CpuOps& ops, ThreadPool& pool, const float* in, int64_t num_rows,
    int64_t in_features, std::span<const int64_t> sources,
    std::span<const int64_t> first_rows) {
  const int64_t row_groups = in_features / kGroup;
  const auto num_groups = static_cast<size_t>(num_rows * row_groups);
  if (rows_.size() < num_groups) rows_.resize(num_groups);
  is_chosen_.assign(num_rows, 0);
  for (const int64_t r : sources) is_chosen_[r] = 1;
  ForRows(pool, num_rows, in_features, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {  // a panel of one is a row
      if (is_chosen_[r] == 0) continue;
      ops.round_rows(in + r * in_features, in_features, 1, 0, row_groups,
                     rows_.data() + r * row_groups);
    }
  });
  MakeParts(ops, in_features, first_rows);
  ForColumns(ops, pool, [&](size_t p, int64_t first, int64_t last) {
    CopyColumns(ops, parts_[p], sources.data() + first_rows[p], first, last);
  });
  return parts_;
}

void RowRounder::CopyColumns(const CpuOps& ops, const RoundedRows& part,
                             const int64_t* sources, int64_t begin,
                             int64_t end) {
  const int64_t row_groups = part.in_features / kGroup;
  RoundedGroup* groups = groups_.data() + (part.groups - groups_.data());
  int64_t token = 0;
  for (int64_t first = 0; first < end; first += row_groups) {  // of a panel
    const int64_t size =
        std::min<int64_t>(part.num_tokens - token, ops.max_panel);
    for (int64_t t = 0; t < size && first + row_groups > begin; ++t) {
      RoundedGroup* to = groups + token * row_groups + t;
      const RoundedGroup* from = rows_.data() + sources[token + t] * row_groups;
      const int64_t last = std::min(end - first, row_groups);
      for (int64_t g = std::max<int64_t>(begin - first, 0); g < last; ++g) {
        to[g * size] = from[g];
      }
    }
    token += size;
  }
}

// Rounds the inputs of jobs with pairs, those of neighbouring jobs once.
void LinearRunner::RoundPairs(const CpuOps& ops, ThreadPool& pool,
                              std::span<const LinearJob> jobs) {
  inputs_.clear();
  first_rows_.assign(1, 0);
  offsets_.assign(jobs.size(), 0);
  int64_t size = 0, width = 0;
  for (size_t j = 0; j < jobs.size(); ++j) {
    const LinearJob& job = jobs[j];
    if (job.matrix->form() != CpuMatrix::Form::kPairs) continue;
    if (inputs_.empty() || inputs_.back().in != job.in) {
      width = job.matrix->in_features();
      inputs_.push_back({job.in, width, size});
      first_rows_.push_back(first_rows_.back() + job.num_tokens);
      size += job.num_tokens * PairStride(width);
    }
    offsets_[j] = inputs_.back().offset;
  }
  if (inputs_.empty()) return;
  if (static_cast<int64_t>(words_.size()) < size) words_.resize(size);
  ForRows(pool, first_rows_.back(), width, [&](int64_t begin, int64_t end) {
    ForParts(first_rows_, begin, end,
             [&](size_t i, int64_t first, int64_t last) {
               const PairInput& input = inputs_[i];
               ops.round_pairs(input.in, input.in_features, first, last,
                               words_.data() + input.offset);
             });
  });
}

// A unit is a tile of rows (tiles, pairs) or one row (floats, stored).
// `words` is the input in pairs.
void LinearRunner::RunUnits(const CpuOps& ops, const LinearJob& job,
                            const float* words, int64_t begin, int64_t end,
                            std::vector<float>* row) {
  const auto grow = [row](int64_t floats) {
    if (static_cast<int64_t>(row->size()) < floats) row->resize(floats);
    return row->data();
  };
  const CpuMatrix& matrix = *job.matrix;
  switch (matrix.form()) {
    case CpuMatrix::Form::kTiles:
      ops.int_linear(matrix.kind(), matrix.tiles(), job.rounded, job.out, begin,
                     end);
      return;
    case CpuMatrix::Form::kPairs:
      ops.pair_linear(matrix.pairs(), words, job.num_tokens, job.out, begin,
                      end, grow(PairScratchFloats(matrix.in_features())));
      return;
    case CpuMatrix::Form::kFloats:
      ops.float_linear(matrix.floats(), job.in, job.num_tokens, job.out, begin,
                       end);
      return;
    case CpuMatrix::Form::kStored: {
      const int64_t in_features = matrix.in_features();
      float* widened = grow(kWidened * in_features);
      const FloatRows floats = {widened, DType::kF32, in_features};
      for (int64_t r = begin; r < end; r += kWidened) {
        const int64_t count = std::min(kWidened, end - r);
        for (int64_t i = 0; i < count; ++i) {
          ops.widen_row(matrix.stored(), r + i, widened + i * in_features);
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
    const int64_t unit = RowsOfUnit(ops, *job.matrix);
    num_units += (rows + unit - 1) / unit;
    work += rows * job.matrix->in_features() * job.num_tokens;
  }
  first_units_.push_back(num_units);
  if (num_units == 0) return;
  RoundPairs(ops, pool, jobs);
  // Some sixteen pieces a thread, but none below what a hand-out costs.
  const int64_t even = num_units / (16 * pool.num_threads());
  const int64_t enough = 1 + kSmallWork / (work / num_units + 1);
  pool.For(num_units, std::max<int64_t>({even, enough, 1}),
           [&](int64_t begin, int64_t end, int thread) {
             ForParts(first_units_, begin, end,
                      [&](size_t job, int64_t first, int64_t last) {
                        RunUnits(ops, jobs[job], words_.data() + offsets_[job],
                                 first, last, &rows_[thread]);
                      });
           });
}

}  // namespace shoal::cpu
