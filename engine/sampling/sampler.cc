#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace shoal {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// A random number from a counter: SplitMix64's finaliser over seed and draw
// number (Steele, Lea and Flood 2014).
uint64_t Random(uint64_t seed, uint64_t draw) {
  uint64_t z = seed + (draw + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

int32_t ArgMax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<int32_t>(best);
}

Sampler::Sampler(SamplingParams params, uint64_t seed,
                 std::shared_ptr<TokenConstraint> constraint)
    : params_(std::move(params)),
      seed_(seed),
      constraint_(std::move(constraint)) {}

void Sampler::AddPrompt(std::span<const int32_t> token_ids) {
  if (params_.repetition_penalty == 1) return;
  seen_.insert(token_ids.begin(), token_ids.end());
}

absl::Status Sampler::Accept(int32_t token) {
  if (params_.repetition_penalty != 1) seen_.insert(token);
  if (params_.presence_penalty != 0 || params_.frequency_penalty != 0) {
    ++counts_[token];
  }
  return constraint_ == nullptr ? absl::OkStatus() : constraint_->Accept(token);
}

bool Sampler::is_plain() const {
  return params_.allowed_token_ids.empty() && params_.logit_bias.empty() &&
         params_.repetition_penalty == 1 && params_.presence_penalty == 0 &&
         params_.frequency_penalty == 0 && constraint_ == nullptr;
}

TokenDraw Sampler::NextDraw() {
  TokenDraw draw;
  if (params_.temperature <= 0) return draw;
  draw.temperature = params_.temperature;
  draw.top_k = std::max(params_.top_k, 0);
  draw.top_p = params_.top_p;
  draw.min_p = params_.min_p;
  draw.random = Random(seed_, num_drawn_++);
  return draw;
}

absl::Status Sampler::Restrict(std::span<float> logits,
                               std::span<const int32_t> forbidden) const {
  if (!params_.allowed_token_ids.empty()) {
    std::vector<std::pair<int32_t, float>> kept;
    for (int32_t token : params_.allowed_token_ids) {
      kept.emplace_back(token, logits[token]);
    }
    std::fill(logits.begin(), logits.end(), kNever);
    for (const auto& [token, logit] : kept) logits[token] = logit;
  }
  if (constraint_ != nullptr) {
    absl::Status status = constraint_->Mask(logits);
    if (!status.ok()) return status;
  }
  for (const auto& [token, bias] : params_.logit_bias) logits[token] += bias;
  for (int32_t token : forbidden) logits[token] = kNever;
  return absl::OkStatus();
}

void Sampler::ApplyPenalties(std::span<float> logits) const {
  for (int32_t token : seen_) {
    float& logit = logits[token];
    logit = logit > 0 ? logit / params_.repetition_penalty
                      : logit * params_.repetition_penalty;
  }
  for (const auto& [token, count] : counts_) {
    logits[token] -= params_.presence_penalty +
                     params_.frequency_penalty * static_cast<float>(count);
  }
}

absl::StatusOr<int32_t> Sampler::Sample(std::span<float> logits,
                                        std::span<const int32_t> forbidden) {
  absl::Status status = Restrict(logits, forbidden);
  if (!status.ok()) return status;
  ApplyPenalties(logits);
  const int32_t token = drawer_.Draw(logits, NextDraw());
  if (token >= 0) return token;
  const bool has_nan = std::any_of(logits.begin(), logits.end(),
                                   [](float x) { return std::isnan(x); });
  return absl::InternalError(has_nan
                                 ? "the model computed a logit that is not a "
                                   "number"
                                 : "no token is left to choose");
}

PositionLogprobs ComputeLogprobs(std::span<const float> logits, int32_t chosen,
                                 int32_t num_top) {
  const float max = logits[ArgMax(logits)];
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit - max));
  const double log_sum = std::log(sum) + max;
  const auto make = [&](int32_t token, int32_t rank) {
    return TokenLogprob{token, static_cast<float>(logits[token] - log_sum),
                        rank};
  };
  const auto likelier = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  int32_t rank = 1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (likelier(static_cast<int32_t>(i), chosen)) ++rank;
  }
  PositionLogprobs result;
  result.chosen = make(chosen, rank);
  if (num_top <= 0) return result;
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::partial_sort(order.begin(), order.begin() + num_top, order.end(),
                    likelier);
  result.top.reserve(num_top);
  for (int32_t i = 0; i < num_top; ++i) {
    result.top.push_back(make(order[i], i + 1));
  }
  return result;
}

}  // namespace shoal
