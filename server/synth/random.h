// Random numbers of synthetic models. Written out rather than taken from
// <random>, whose distributions differ between standard libraries: a seed gives
// the same bytes everywhere.
#pragma once

#include <cstdint>
#include <string_view>

namespace shoal {

// SplitMix64. Not thread-safe; copies continue independently from one state.
class SynthRandom {
 public:
  explicit SynthRandom(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  // In [0, n). REQUIRES: 0 < n < 2^32.
  int64_t Below(int64_t n) {
    return static_cast<int64_t>(((Next() >> 32) * static_cast<uint64_t>(n)) >>
                                32);
  }

  // In [0, 1).
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

  // Mean 0, deviation 1, never beyond 4.9: the sum of one draw's eight bytes,
  // which is as near to normal as weights need and takes no logarithm.
  float Normal() {
    const uint64_t bits = Next();
    constexpr uint64_t kEven = 0x00ff00ff00ff00ffu;
    const uint64_t pairs = (bits & kEven) + ((bits >> 8) & kEven);
    const uint64_t sum = (pairs * 0x0001000100010001u) >> 48;
    return (static_cast<float>(sum) - 1020.0f) * (1 / 209.0215f);
  }

 private:
  uint64_t state_;
};

// The seed of what is called `name`, so that it does not depend on what else a
// model holds: the first layers are the same however many are written.
inline uint64_t SeedOf(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  }
  return SynthRandom(hash ^ SynthRandom(seed).Next()).Next();
}

}  // namespace shoal
