// Choosing a token from a row of logits. A draw is exact: the row and the draw
// alone decide it, not the order in which anything is summed.
//
// With max the largest logit, token i is as likely as its weight
//   w_i = ⌊2^40 · exp((logit_i - max) / temperature)⌋
// and tokens are ordered by falling logit, equals by rising id. Of this order
// the first are kept: at most top_k; of these the fewest whose weights reach
// top_p of them all; of those the ones with w_i >= min_p · 2^40 (the order of
// Hugging Face's and vLLM's filters). Among the kept, by rising id, the token
// drawn is the first at which the sum of weights exceeds
//   ⌊random · total / 2^64⌋.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shoal {

struct TokenDraw {
  float temperature = 0;  // 0: the first of the order; nothing else counts
  int32_t top_k = 0;      // 0: all
  float top_p = 1;        // (0, 1]
  float min_p = 0;        // [0, 1]
  uint64_t random = 0;    // uniform over all its values
};

// out[r]: the token of row r; -1 if one of its logits is NaN or the largest is
// not finite.
struct SampleParams {
  const float* logits = nullptr;     // [num_rows, width]
  const TokenDraw* draws = nullptr;  // [num_rows]; nullptr: temperature 0
  int64_t num_rows = 0;
  int64_t width = 0;       // < 2^23
  int32_t* out = nullptr;  // [num_rows]
};

inline constexpr float kFullWeight = 0x1p40f;

// The factor of a difference of logits. Finite, so that the best one's
// difference of 0 does not become a NaN.
constexpr float InverseTemperature(float temperature) {
  const float inverse = 1 / temperature;
  return inverse < 3.40282347e38f ? inverse : 3.40282347e38f;
}

// The sum that top_p asks for. REQUIRES: 0 < total < 2^63.
constexpr uint64_t NucleusWeight(float top_p, uint64_t total) {
  const auto wanted = static_cast<uint64_t>(static_cast<double>(top_p) *
                                            static_cast<double>(total));
  return wanted > 0 ? wanted : 1;
}

// The index of the largest value, the lowest of equals; -1 if one is NaN or the
// largest is not finite. REQUIRES: a value.
int32_t LargestLogit(std::span<const float> logits);

// TokenDrawer draws by that definition from rows in the host's memory; one
// object a thread. It keeps room for the widest row it has met.
class TokenDrawer {
 public:
  // As SampleParams::out.
  int32_t Draw(std::span<const float> logits, const TokenDraw& draw);

 private:
  struct Candidate {
    float below;  // the largest logit, by so much
    int32_t token;
    uint64_t weight;
  };

  std::vector<Candidate> candidates_;
};

}  // namespace shoal
