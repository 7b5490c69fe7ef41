// Choice of the largest scores on the CPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shoal::cpu {

// Indices of the `k` largest scores (all, if there are no more) in rising
// order; of equal scores the lower index. `order` is the caller's memory.
// Cost: linear in scores.size(), on average.
void SelectTopKeys(std::span<const float> scores, int32_t k,
                   std::vector<int32_t>* order);

}  // namespace shoal::cpu
