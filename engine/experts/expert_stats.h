// What the experts of a model did so far, for metrics.
#pragma once

#include <array>
#include <cstdint>

namespace shoal {

struct ExpertStats {
  int64_t on_device = 0;  // experts with a copy in the kernel table's memory
  int64_t on_host = 0;    // the others
  int64_t device_bytes = 0;
  int64_t host_bytes = 0;  // of weights packed for the host
  // Choices (a token that chose an expert) since the start, by where they were
  // computed: where the expert lay, or on the device that it was carried to.
  uint64_t device_choices = 0;
  uint64_t host_choices = 0;
  uint64_t streamed_choices = 0;
  // Bytes carried to the device: to stay, and for one step.
  uint64_t moved_bytes = 0;
  uint64_t streamed_bytes = 0;
  // That steps spent on experts of the host and on carrying experts. The
  // device works on meanwhile, as far as it has work.
  double stall_seconds = 0;
  // σ/μ of the load of late over a layer's experts: the smallest, the median
  // and the largest of the layers.
  std::array<double, 3> imbalance = {};
};

}  // namespace shoal
