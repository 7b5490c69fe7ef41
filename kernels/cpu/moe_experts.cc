#include "kernels/cpu/moe_experts.h"

#include <algorithm>
#include <cstring>

namespace shoal::cpu {
namespace {

const CpuMatrix* AsCpu(const PackedMatrix* matrix) {
  return static_cast<const CpuMatrix*>(matrix);
}

bool Rounds(const PackedMatrix* matrix) {
  return AsCpu(matrix)->form() == CpuMatrix::Form::kTiles;
}

void Grow(std::vector<float>& buffer, int64_t floats) {
  if (static_cast<int64_t>(buffer.size()) < floats) buffer.resize(floats);
}

}  // namespace

// Sorts the choices by expert.
void ExpertRunner::Sort(const MoeExpertsParams& params) {
  const int64_t num_choices = params.num_tokens * params.top_k;
  const auto is_here = [&params](int32_t expert) {
    return expert >= 0 && params.experts[expert].is_here();
  };
  first_rows_.assign(params.experts.size() + 1, 0);
  for (int64_t c = 0; c < num_choices; ++c) {
    const int32_t expert = params.expert_ids[c];
    if (is_here(expert)) ++first_rows_[expert + 1];
  }
  for (size_t e = 0; e < params.experts.size(); ++e) {
    first_rows_[e + 1] += first_rows_[e];
  }
  const int64_t num_rows = first_rows_.back();
  source_rows_.resize(num_rows);
  row_of_choice_.assign(num_choices, -1);
  std::vector<int64_t> next(first_rows_.begin(), first_rows_.end() - 1);
  for (int64_t c = 0; c < num_choices; ++c) {
    if (!is_here(params.expert_ids[c])) continue;
    const int64_t row = next[params.expert_ids[c]]++;
    source_rows_[row] = c / params.top_k;
    row_of_choice_[c] = row;
  }
  Grow(gate_, num_rows * params.intermediate_size);
  Grow(up_, num_rows * params.intermediate_size);
  Grow(result_, num_rows * params.hidden_size);
}

// Copies the choices' tokens, for matrices that take floats.
void ExpertRunner::Gather(ThreadPool& pool, const MoeExpertsParams& params) {
  const auto num_rows = static_cast<int64_t>(source_rows_.size());
  const int64_t width = params.hidden_size;
  Grow(rows_, num_rows * width);
  ForRows(pool, num_rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(rows_.data() + row * width,
                  params.in + source_rows_[row] * width, width * sizeof(float));
    }
  });
}

// A token's sum is in the order of its choices, whatever the batch.
void ExpertRunner::Add(ThreadPool& pool, const MoeExpertsParams& params) const {
  const int64_t width = params.hidden_size;
  ForRows(pool, params.num_tokens, width * params.top_k,
          [&](int64_t begin, int64_t end) {
            for (int64_t c = begin * params.top_k; c < end * params.top_k;
                 ++c) {
              if (row_of_choice_[c] < 0) continue;
              const float weight = params.expert_weights[c];
              const float* row = result_.data() + row_of_choice_[c] * width;
              float* out = params.out + c / params.top_k * width;
              for (int64_t i = 0; i < width; ++i) out[i] += weight * row[i];
            }
          });
}

void ExpertRunner::Run(const CpuOps& ops, ThreadPool& pool,
                       const MoeExpertsParams& params) {
  Sort(params);
  const int64_t num_rows = first_rows_.back();
  if (num_rows == 0) return;
  const int64_t hidden = params.hidden_size;
  const int64_t inner = params.intermediate_size;
  // Experts of a layer are stored alike.
  const ExpertWeights& any =
      *std::find_if(params.experts.begin(), params.experts.end(),
                    [](const ExpertWeights& e) { return e.is_here(); });

  std::span<const RoundedRows> rounded;  // of each expert
  if (Rounds(any.gate) || Rounds(any.up)) {
    rounded = rounder_.RoundChosen(ops, pool, params.in, params.num_tokens,
                                   hidden, source_rows_, first_rows_);
  }
  if (!Rounds(any.gate) || !Rounds(any.up)) Gather(pool, params);
  jobs_.clear();
  const auto add = [&](const PackedMatrix* weight, const float* in, int64_t e,
                       float* out) {
    const int64_t first = first_rows_[e];
    const int64_t count = first_rows_[e + 1] - first;
    const CpuMatrix* matrix = AsCpu(weight);
    LinearJob& job = jobs_.emplace_back();
    job.matrix = matrix;
    if (Rounds(matrix)) {
      job.rounded = rounded[e];
    } else {
      job.in = in + first * matrix->in_features();
    }
    job.num_tokens = count;
    job.out = {nullptr, out + first * matrix->out_features(),
               matrix->out_features(), false};
  };
  const auto num_experts = static_cast<int64_t>(params.experts.size());
  for (int64_t e = 0; e < num_experts; ++e) {
    if (first_rows_[e] == first_rows_[e + 1]) continue;
    add(params.experts[e].gate, rows_.data(), e, gate_.data());
    add(params.experts[e].up, rows_.data(), e, up_.data());
  }
  linear_.Run(ops, pool, jobs_);

  SiluMulParams silu;
  silu.gate = gate_.data();
  silu.up = up_.data();
  silu.out = gate_.data();
  silu.num_tokens = num_rows;
  silu.width = inner;
  silu.limit = params.swiglu_limit;
  ForRows(pool, num_rows, 8 * inner,
          [&](int64_t begin, int64_t end) { ops.silu_mul(silu, begin, end); });
  if (Rounds(any.down)) {
    rounded = rounder_.Round(ops, pool, gate_.data(), inner, first_rows_);
  }
  jobs_.clear();
  for (int64_t e = 0; e < num_experts; ++e) {
    if (first_rows_[e] == first_rows_[e + 1]) continue;
    add(params.experts[e].down, gate_.data(), e, result_.data());
  }
  linear_.Run(ops, pool, jobs_);
  Add(pool, params);
}

}  // namespace shoal::cpu
