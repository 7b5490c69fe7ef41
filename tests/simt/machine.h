// The machine that the SIMT shim runs CUDA kernels on: blocks one after the
// other, the threads of a block as fibers that run until a barrier or a warp
// collective stops them. Threads take turns in rising order in one launch and
// in falling order in the next, so that a missing barrier shows. Strict where a
// GPU is not: a collective that not all 32 lanes of a warp reach, a barrier
// that nobody can pass and a launch beyond Hopper's limits end in an error.
//
// Device memory is a range of its own that only kernels and copies can touch;
// whatever else does is a segmentation fault. Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <functional>

namespace shoal::simt {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct LaunchShape {
  Index grid, block;
  size_t shared_bytes = 0;  // dynamic
};

// Called by a running kernel's threads.
void BlockBarrier();
// Every lane gives 8 bytes and gets lane `source`'s.
uint64_t WarpExchange(uint64_t value, int source);
// Bit i: lane i's predicate.
uint32_t WarpBallot(bool predicate);
void* SharedMemory();

// Runs `thread` for every thread of the launch. False for a shape that no
// Hopper device launches: `max_shared_bytes` is what the kernel asked for.
bool RunGrid(const LaunchShape& shape, size_t max_shared_bytes,
             const std::function<void()>& thread);

// Device memory of kDeviceBytes in all; nullptr when they are used up. Filled
// with 0xff, which is NaN in every float type.
inline constexpr size_t kDeviceBytes = size_t{4} << 30;
void* AllocateDevice(size_t bytes);
void FreeDevice(void* data);
size_t FreeDeviceBytes();
bool IsDevice(const void* data, size_t bytes);

// While one lives, device memory can be touched.
class OpenDevice {
 public:
  OpenDevice();
  ~OpenDevice();
  OpenDevice(const OpenDevice&) = delete;
  OpenDevice& operator=(const OpenDevice&) = delete;
};

// The device fails for good after `num_launches` more launches.
void FailAfter(int64_t num_launches);
// Ends a failure, as a new process would.
void Repair();
// Counts a launch; false once the device has failed.
bool CountLaunch();
bool HasFailed();
// Launches since the process began.
int64_t NumLaunches();

}  // namespace shoal::simt

// What CUDA declares in every kernel.
extern shoal::simt::Index threadIdx, blockIdx, blockDim, gridDim;
