// Upper bounds of the histograms' buckets. Lists of vLLM's families are vLLM's,
// so that boards over both kinds of server add up, with finer steps where a
// small model answers faster than the first of them.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

using Buckets = std::vector<double>;

// Seconds to the first token.
inline Buckets FirstTokenBuckets() {
  return {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
          1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
}

// Seconds between tokens; the first two are finer than vLLM's.
inline Buckets TokenTimeBuckets() {
  return {.001, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4,
          .5,   .75,  1,   2.5,  5,   7.5,  10, 20,  40, 80};
}

// Seconds of a request or a part of it; those below 0.3 are finer than vLLM's.
inline Buckets RequestTimeBuckets() {
  return {.005, .01, .025, .05, .1, .2, .3, .5,  .8,  1,   1.5, 2,    2.5, 5,
          10,   15,  20,   30,  40, 50, 60, 120, 240, 480, 960, 1920, 7680};
}

// Tokens in one step.
inline Buckets IterationBuckets() {
  return {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
}

// 1, 2, 5, 10, 20, 50, ... up to `most`.
inline Buckets OneTwoFiveBuckets(int64_t most) {
  Buckets bounds;
  for (int64_t power = 1; power <= most; power *= 10) {
    for (int64_t digit : {1, 2, 5}) {
      if (digit * power <= most) {
        bounds.push_back(static_cast<double>(digit * power));
      }
    }
  }
  return bounds;
}

}  // namespace shoal
