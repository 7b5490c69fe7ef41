#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace shoal {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// A uniform number in [0, 1) from a counter: SplitMix64's finaliser over seed
// and draw number (Steele, Lea and Flood 2014), top 53 bits.
double Uniform(uint64_t seed, uint64_t draw) {
  uint64_t z = seed + (draw + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
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

bool Sampler::is_plain_greedy() const {
  return params_.temperature <= 0 && params_.allowed_token_ids.empty() &&
         params_.logit_bias.empty() && params_.repetition_penalty == 1 &&
         params_.presence_penalty == 0 && params_.frequency_penalty == 0 &&
         constraint_ == nullptr;
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
  const int32_t best = ArgMax(logits);
  // A NaN loses every comparison; if one is there the sum shows it.
  float sum = 0;
  for (float logit : logits) sum += logit == kNever ? 0 : logit;
  if (std::isnan(sum) || logits[best] == kNever ||
      !std::isfinite(logits[best])) {
    return absl::InternalError(
        std::isnan(sum) ? "the model computed a logit that is not a number"
                        : "no token is left to choose");
  }
  const uint64_t needs_draw = params_.temperature > 0 ? 1 : 0;
  const int32_t token = needs_draw != 0 ? Draw(logits, logits[best]) : best;
  num_drawn_ += needs_draw;
  return token;
}

int32_t Sampler::Draw(std::span<const float> logits, float max) {
  // Candidates with their probability relative to the best. What is below e^-40
  // of it cannot matter to a draw of 53 bits over any real vocabulary.
  // The inverse stays finite, so that the best one's 0 does not become a NaN.
  const float inverse =
      std::min(1 / params_.temperature, std::numeric_limits<float>::max());
  // min-p comes after top-p, which measures against the whole; top-k keeps the
  // same ones either way.
  const bool min_p_now = params_.min_p > 0 && params_.top_p >= 1;
  const float floor = min_p_now ? std::log(params_.min_p) : -40.0f;
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const float weight = (logits[i] - max) * inverse;
    if (weight >= floor) {
      candidates_.push_back({weight, static_cast<int32_t>(i)});
    }
  }
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  auto end = candidates_.end();
  if (params_.top_k > 0 && params_.top_k < end - candidates_.begin()) {
    end = candidates_.begin() + params_.top_k;
    std::nth_element(candidates_.begin(), end - 1, candidates_.end(), likelier);
  }
  double total = 0;
  for (auto it = candidates_.begin(); it != end; ++it) {
    it->weight = std::exp(it->weight);
    total += it->weight;
  }
  if (params_.top_p < 1) {
    // The fewest likeliest ones that reach top_p, those below min_p left out,
    // which are its last. Sorted a piece at a time: the nucleus is usually a
    // few dozen of a hundred thousand.
    const double wanted = params_.top_p * total;
    double reached = 0;
    auto sorted = candidates_.begin();
    auto it = candidates_.begin();
    while (it != end && reached < wanted) {
      if (it == sorted) {
        const auto piece = std::min<int64_t>(
            end - sorted, std::max<int64_t>(64, sorted - candidates_.begin()));
        std::partial_sort(sorted, sorted + piece, end, likelier);
        sorted += piece;
      }
      if (it->weight < params_.min_p) break;  // never the best, whose is 1
      reached += it->weight;
      ++it;
    }
    end = it;
    total = reached;
  }
  double left = Uniform(seed_, num_drawn_) * total;
  for (auto it = candidates_.begin(); it != end; ++it) {
    left -= it->weight;
    if (left < 0) return it->token;
  }
  return (end - 1)->token;  // rounding left a sliver
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
