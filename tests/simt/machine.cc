#include "tests/simt/machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <vector>

#include "kernels/check.h"
#include "tests/simt/fiber.h"

shoal::simt::Index threadIdx, blockIdx, blockDim, gridDim;

namespace shoal::simt {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxGridYZ = 65535;
constexpr size_t kMaxSharedBytes = 227 << 10;

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "simt: block %u,%u,%u thread %u: %s\n", blockIdx.x,
               blockIdx.y, blockIdx.z, threadIdx.x, what);
  std::abort();
}

enum class State : uint8_t { kReady, kAtBarrier, kInCollective, kDone };

struct Thread {
  Fiber fiber;
  Index index;
  State state = State::kDone;
};

// Values of one collective. Two are kept, since a lane may begin the next
// before another has read this one.
struct Warp {
  uint64_t values[2][kWarp];
  int arrived = 0;
  uint64_t rounds = 0;  // collectives completed
};

class Machine {
 public:
  void RunBlock(const LaunchShape& shape, const std::function<void()>& body,
                bool falling);
  void Wait(State state) {
    Thread& self = *threads_[current_];
    self.state = state;
    self.fiber.Yield();
    threadIdx = self.index;
  }
  uint64_t Exchange(uint64_t value, int source);
  uint32_t Ballot(bool predicate);
  void* shared() { return shared_.get(); }
  bool running() const { return running_; }

 private:
  // The slot of the values that all lanes have given.
  const uint64_t* Collect(uint64_t value);
  bool Release();

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::unique_ptr<uint8_t[]> shared_;
  int current_ = 0;
  int num_threads_ = 0;
  bool running_ = false;
};

Machine& TheMachine() {
  static Machine machine;
  return machine;
}

const uint64_t* Machine::Collect(uint64_t value) {
  Warp& warp = warps_[current_ / kWarp];
  uint64_t* values = warp.values[warp.rounds % 2];
  values[current_ % kWarp] = value;
  if (++warp.arrived < kWarp) {
    Wait(State::kInCollective);
    return values;
  }
  warp.arrived = 0;
  ++warp.rounds;
  const int first = current_ / kWarp * kWarp;
  for (int t = first; t < first + kWarp; ++t) {
    if (t != current_) threads_[t]->state = State::kReady;
  }
  return values;
}

uint64_t Machine::Exchange(uint64_t value, int source) {
  if (source < 0 || source >= kWarp) Fail("a shuffle from outside the warp");
  return Collect(value)[source];
}

uint32_t Machine::Ballot(bool predicate) {
  const uint64_t* values = Collect(predicate ? 1 : 0);
  uint32_t bits = 0;
  for (int i = 0; i < kWarp; ++i) {
    bits |= static_cast<uint32_t>(values[i]) << i;
  }
  return bits;
}

// Opens the barrier if all threads that have not returned are at it; false if
// none is left.
bool Machine::Release() {
  bool waiting = false;
  for (int t = 0; t < num_threads_; ++t) {
    if (threads_[t]->state == State::kInCollective) {
      Fail("a warp collective that not all lanes reach");
    }
    waiting = waiting || threads_[t]->state == State::kAtBarrier;
  }
  for (int t = 0; t < num_threads_; ++t) {
    if (threads_[t]->state == State::kAtBarrier) {
      threads_[t]->state = State::kReady;
    }
  }
  return waiting;
}

void Machine::RunBlock(const LaunchShape& shape,
                       const std::function<void()>& body, bool falling) {
  num_threads_ =
      static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  while (static_cast<int>(threads_.size()) < num_threads_) {
    threads_.push_back(std::make_unique<Thread>());
  }
  warps_.assign(num_threads_ / kWarp, {});
  // Exactly as large as asked for, so that a sanitizer sees what goes beyond.
  shared_ = std::make_unique<uint8_t[]>(shape.shared_bytes);
  std::memset(shared_.get(), 0xff, shape.shared_bytes);
  for (int t = 0; t < num_threads_; ++t) {
    Thread& thread = *threads_[t];
    thread.index = {t % shape.block.x, t / shape.block.x % shape.block.y,
                    t / shape.block.x / shape.block.y};
    thread.state = State::kReady;
    thread.fiber.Start(
        [](void* f) { (*static_cast<const std::function<void()>*>(f))(); },
        const_cast<std::function<void()>*>(&body));
  }
  running_ = true;
  do {
    for (bool progress = true; progress;) {
      progress = false;
      for (int i = 0; i < num_threads_; ++i) {
        current_ = falling ? num_threads_ - 1 - i : i;
        Thread& thread = *threads_[current_];
        if (thread.state != State::kReady) continue;
        progress = true;
        threadIdx = thread.index;
        if (thread.fiber.Resume()) thread.state = State::kDone;
      }
    }
  } while (Release());
  running_ = false;
}

// Device memory: addresses [base, base + used) can be opened and closed.
class DeviceHeap {
 public:
  DeviceHeap() {
    void* map = mmap(nullptr, kDeviceBytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SHOAL_CHECK(map != MAP_FAILED);
    base_ = static_cast<uint8_t*>(map);
  }

  void* Allocate(size_t bytes) {
    constexpr size_t kUnit = 4096;
    if (bytes == 0 || bytes > kDeviceBytes) return nullptr;
    bytes = (bytes + kUnit - 1) / kUnit * kUnit;
    size_t start = 0;  // first gap that is large enough
    for (const auto& [first, length] : regions_) {
      if (first - start >= bytes) break;
      start = first + length;
    }
    if (start + bytes > kDeviceBytes) return nullptr;
    regions_[start] = bytes;
    allocated_ += bytes;
    used_ = std::max(used_, start + bytes);
    Protect(PROT_READ | PROT_WRITE);
    std::memset(base_ + start, 0xff, bytes);
    Protect(PROT_NONE);
    return base_ + start;
  }

  void Free(void* data) {
    const auto it = regions_.find(static_cast<uint8_t*>(data) - base_);
    SHOAL_CHECK(it != regions_.end());
    allocated_ -= it->second;
    madvise(data, it->second, MADV_DONTNEED);
    regions_.erase(it);
    used_ = regions_.empty()
                ? 0
                : regions_.rbegin()->first + regions_.rbegin()->second;
  }

  size_t free_bytes() const { return kDeviceBytes - allocated_; }
  bool Contains(const void* data, size_t bytes) const {
    const auto* address = static_cast<const uint8_t*>(data);
    if (address < base_ || address >= base_ + kDeviceBytes) return false;
    auto it = regions_.upper_bound(address - base_);
    if (it == regions_.begin()) return false;
    --it;
    return address + bytes <= base_ + it->first + it->second;
  }

  void Open() {
    if (open_++ == 0) Protect(PROT_READ | PROT_WRITE);
  }
  void Close() {
    if (--open_ == 0) Protect(PROT_NONE);
  }

 private:
  void Protect(int protection) {
    if (used_ > 0) SHOAL_CHECK(mprotect(base_, used_, protection) == 0);
  }

  uint8_t* base_ = nullptr;
  std::map<size_t, size_t> regions_;  // offset -> bytes
  size_t used_ = 0;
  size_t allocated_ = 0;
  int open_ = 0;
};

DeviceHeap& TheHeap() {
  static auto* heap = new DeviceHeap;  // buffers may outlive any order of exit
  return *heap;
}

std::atomic<int64_t> launches_left = std::numeric_limits<int64_t>::max();
std::atomic<int64_t> num_launches = 0;

}  // namespace

void BlockBarrier() { TheMachine().Wait(State::kAtBarrier); }
uint64_t WarpExchange(uint64_t value, int source) {
  return TheMachine().Exchange(value, source);
}
uint32_t WarpBallot(bool predicate) { return TheMachine().Ballot(predicate); }
void* SharedMemory() { return TheMachine().shared(); }

bool RunGrid(const LaunchShape& shape, size_t max_shared_bytes,
             const std::function<void()>& thread) {
  static bool falling = false;
  const Index& grid = shape.grid;
  const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > kMaxGridYZ ||
      grid.z > kMaxGridYZ || threads == 0 || threads > kMaxThreads ||
      threads % kWarp != 0 || max_shared_bytes > kMaxSharedBytes ||
      shape.shared_bytes > max_shared_bytes) {
    return false;
  }
  SHOAL_CHECK(!TheMachine().running());
  falling = !falling;
  const OpenDevice open;
  gridDim = grid;
  blockDim = shape.block;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        TheMachine().RunBlock(shape, thread, falling);
      }
    }
  }
  return true;
}

void* AllocateDevice(size_t bytes) { return TheHeap().Allocate(bytes); }
void FreeDevice(void* data) { TheHeap().Free(data); }
size_t FreeDeviceBytes() { return TheHeap().free_bytes(); }
bool IsDevice(const void* data, size_t bytes) {
  return TheHeap().Contains(data, bytes);
}

OpenDevice::OpenDevice() { TheHeap().Open(); }
OpenDevice::~OpenDevice() { TheHeap().Close(); }

void FailAfter(int64_t num_launches) { launches_left = num_launches; }
void Repair() { launches_left = std::numeric_limits<int64_t>::max(); }
bool CountLaunch() {
  if (launches_left <= 0) return false;
  ++num_launches;
  --launches_left;
  return true;
}
int64_t NumLaunches() { return num_launches; }
bool HasFailed() { return launches_left <= 0; }

}  // namespace shoal::simt
