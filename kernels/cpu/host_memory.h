// How much memory the host has to give.
#pragma once

#include <cstdint>

namespace shoal {

// Bytes that may still be allocated: what the kernel calls available, or what
// the cgroup (v2 or v1) leaves below its limit if that is less.
int64_t AvailableMemoryBytes();

}  // namespace shoal
