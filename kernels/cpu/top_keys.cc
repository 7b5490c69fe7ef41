#include "kernels/cpu/top_keys.h"

#include <algorithm>
#include <numeric>

namespace shoal::cpu {

void SelectTopKeys(std::span<const float> scores, int32_t k,
                   std::vector<int32_t>* order) {
  order->resize(scores.size());
  std::iota(order->begin(), order->end(), 0);
  if (scores.size() <= static_cast<size_t>(k)) return;
  std::nth_element(order->begin(), order->begin() + k, order->end(),
                   [&](int32_t a, int32_t b) {
                     return scores[a] != scores[b] ? scores[a] > scores[b]
                                                   : a < b;
                   });
  order->resize(k);
  std::sort(order->begin(), order->end());
}

}  // namespace shoal::cpu
