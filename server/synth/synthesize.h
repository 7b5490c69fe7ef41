// Writes models of published shapes with random weights: their speed and memory
// are the real models', their text is noise. Nothing of the size of a model is
// held in memory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

struct SynthOptions {
  std::string geometry;    // a name of server/synth/geometry.h
  std::string format;      // bf16, fp8, q8_0, q4_0 or q4_k
  std::string path;        // folder of bf16 and fp8, else file
  int64_t layers = 0;      // only the first so many; 0: all
  double router_skew = 0;  // exponent of the experts' popularity; 0: all alike
  uint64_t seed = 0;       // equal seeds give equal bytes
  bool force = false;      // replaces a model that lies at `path`
  int64_t max_shard_bytes = 5'000'000'000;
  // Bytes of weights written and to be written; may be null.
  std::function<void(int64_t done, int64_t all)> progress;
};

struct SynthReport {
  int64_t num_tensors = 0;
  int64_t weight_bytes = 0;
};

// InvalidArgument naming the option and what it may be, or a file that cannot
// be written; AlreadyExists unless `force`; ResourceExhausted when the disk has
// no room, before anything is written or replaced.
absl::StatusOr<SynthReport> Synthesize(const SynthOptions& options);

}  // namespace shoal
