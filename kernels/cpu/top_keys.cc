#include "kernels/cpu/top_keys.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace shoal::cpu {
namespace {

constexpr int kBinBits = 12;  // sign, exponent, three bits of the mantissa

// An integer that orders like the score; -0 like 0.
uint32_t OrderOf(float score) {
  score += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

}  // namespace

void SelectTopKeys(std::span<const float> scores, int32_t k,
                   std::vector<int32_t>* order) {
  const auto size = static_cast<int32_t>(scores.size());
  if (size <= k) {
    order->resize(size);
    std::iota(order->begin(), order->end(), 0);
    return;
  }
  std::array<int32_t, 1 << kBinBits> bins = {};
  for (const float score : scores) ++bins[OrderOf(score) >> (32 - kBinBits)];
  // The bin in which the last chosen score lies, and how many are left for it.
  uint32_t bin = bins.size() - 1;
  int32_t left = k;
  while (left > bins[bin]) left -= bins[bin--];

  // Among its scores, the last chosen one.
  order->clear();
  for (int32_t j = 0; j < size; ++j) {
    if (OrderOf(scores[j]) >> (32 - kBinBits) == bin) order->push_back(j);
  }
  const auto last = order->begin() + (left - 1);
  std::nth_element(order->begin(), last, order->end(),
                   [&](int32_t a, int32_t b) {
                     const uint32_t x = OrderOf(scores[a]);
                     const uint32_t y = OrderOf(scores[b]);
                     return x != y ? x > y : a < b;
                   });
  const int32_t last_key = *last;
  const uint32_t last_score = OrderOf(scores[last_key]);

  order->resize(k + 1);  // the store below may run one ahead
  int32_t count = 0;
  for (int32_t j = 0; j < size; ++j) {
    const uint32_t score = OrderOf(scores[j]);
    (*order)[count] = j;
    count += score > last_score || (score == last_score && j <= last_key);
  }
  order->resize(k);
}

}  // namespace shoal::cpu
