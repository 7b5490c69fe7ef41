#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>

namespace shoal {
namespace {

// Beyond this many units of temperature a weight is below 1 (2^40 < e^28).
constexpr float kLeastExponent = 28.0f;
constexpr size_t kBlock = 1024;  // logits
constexpr size_t kColumns = 16;  // of a block, so that the compiler can use
                                 // vectors

uint64_t DrawnWeight(uint64_t random, uint64_t total) {
  using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(random) * total >> 64);
}

// The largest of a block and whether one is NaN, whatever the order.
float LargestOf(const float* x, size_t n, bool* has_nan) {
  float largest[kColumns];
  uint32_t nans[kColumns] = {};
  std::fill_n(largest, kColumns, -INFINITY);
  size_t i = 0;
  for (; i + kColumns <= n; i += kColumns) {
    for (size_t j = 0; j < kColumns; ++j) {
      const float value = x[i + j];
      largest[j] = value > largest[j] ? value : largest[j];
      nans[j] |= value != value;
    }
  }
  for (; i < n; ++i) {
    largest[0] = x[i] > largest[0] ? x[i] : largest[0];
    nans[0] |= x[i] != x[i];
  }
  *has_nan |=
      std::any_of(nans, nans + kColumns, [](uint32_t nan) { return nan != 0; });
  return *std::max_element(largest, largest + kColumns);
}

}  // namespace

int32_t LargestLogit(std::span<const float> logits) {
  float best = -INFINITY;
  size_t block = 0;
  bool has_nan = false;
  for (size_t first = 0; first < logits.size(); first += kBlock) {
    const size_t count = std::min(kBlock, logits.size() - first);
    const float largest = LargestOf(logits.data() + first, count, &has_nan);
    if (largest > best) {
      best = largest;
      block = first;
    }
  }
  if (has_nan || !std::isfinite(best)) return -1;
  return static_cast<int32_t>(
      std::find(logits.begin() + static_cast<int64_t>(block), logits.end(),
                best) -
      logits.begin());
}

int32_t TokenDrawer::Draw(std::span<const float> logits,
                          const TokenDraw& draw) {
  const int32_t best = LargestLogit(logits);
  if (best < 0 || draw.temperature <= 0) return best;
  const float max = logits[best];
  const float inverse = InverseTemperature(draw.temperature);
  // Those without weight are the last of the order, and never drawn.
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const float below = max - logits[i];
    const float exponent = below * inverse;
    if (exponent > kLeastExponent) continue;
    const auto weight =
        static_cast<uint64_t>(std::exp(-exponent) * kFullWeight);
    if (weight == 0) continue;
    candidates_.push_back({below, static_cast<int32_t>(i), weight});
  }
  const auto begin = candidates_.begin();
  auto end = candidates_.end();
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.below != b.below ? a.below < b.below : a.token < b.token;
  };
  if (draw.top_k > 0 && draw.top_k < end - begin) {
    std::nth_element(begin, begin + draw.top_k - 1, end, likelier);
    end = begin + draw.top_k;
  }
  const auto sum_of = [&] {
    uint64_t sum = 0;
    for (auto it = begin; it != end; ++it) sum += it->weight;
    return sum;
  };
  uint64_t total = sum_of();
  if (draw.top_p < 1) {
    // Sorted a piece at a time: the nucleus is usually a few dozen of a hundred
    // thousand.
    const uint64_t wanted = NucleusWeight(draw.top_p, total);
    uint64_t reached = 0;
    auto sorted = begin;
    auto it = begin;
    while (it != end && reached < wanted) {
      if (it == sorted) {
        const auto piece = std::min<int64_t>(
            end - sorted, std::max<int64_t>(64, sorted - begin));
        std::partial_sort(sorted, sorted + piece, end, likelier);
        sorted += piece;
      }
      reached += it->weight;
      ++it;
    }
    end = it;
    total = reached;
  }
  if (draw.min_p > 0) {
    const auto least = static_cast<uint64_t>(draw.min_p * kFullWeight);
    end = std::remove_if(begin, end, [least](const Candidate& candidate) {
      return candidate.weight < least;
    });
    total = sum_of();
  }
  if (draw.top_k > 0 || draw.top_p < 1) {
    std::sort(begin, end, [](const Candidate& a, const Candidate& b) {
      return a.token < b.token;
    });
  }
  uint64_t left = DrawnWeight(draw.random, total);
  auto it = begin;
  while (left >= it->weight) left -= (it++)->weight;
  return it->token;
}

}  // namespace shoal
