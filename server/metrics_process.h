// What the operating system says about this process and how much memory it may
// take. Every function reads files under /proc and /sys anew; `root` puts
// another folder in front of them, for tests.
#pragma once

#include <cstdint>
#include <string>

namespace shoal {

// Bytes of RAM this process occupies, mapped files included; 0 if unknown.
int64_t ResidentBytes(const std::string& root = "");

// Seconds since the epoch when this process started; 0 if unknown.
double ProcessStartSeconds(const std::string& root = "");

// The smallest of the machine's memory and of the limits of this process's
// cgroup and those above it, version 1 or 2. 0 if nothing can be read.
int64_t MemoryLimitBytes(const std::string& root = "");

}  // namespace shoal
