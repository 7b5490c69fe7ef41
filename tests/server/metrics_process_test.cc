#include "server/metrics_process.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace shoal {
namespace {

// A folder that stands for the system's root.
class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/metrics_process_test_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
    Write("/proc/meminfo", "MemTotal:  1000000 kB\nMemFree: 5 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path whole = root_ + path;
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text;
  }

  std::string root_;
};

constexpr int64_t kMachine = int64_t{1000000} * 1024;

TEST_F(ProcessTest, MachineMemoryWithoutLimits) {
  EXPECT_EQ(MemoryLimitBytes(root_), kMachine);
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/memory.max", "max\n");
  EXPECT_EQ(MemoryLimitBytes(root_), kMachine);
  EXPECT_EQ(MemoryLimitBytes(root_ + "/none"), 0);
}

TEST_F(ProcessTest, LeastOfACgroupAndItsParents) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "5000\n");
  Write("/sys/fs/cgroup/a/memory.max", "4000\n");
  EXPECT_EQ(MemoryLimitBytes(root_), 4000);
}

TEST_F(ProcessTest, ContainerSeesItsOwnMountOnly) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "3000\n");
  EXPECT_EQ(MemoryLimitBytes(root_), 3000);
}

TEST_F(ProcessTest, FirstVersionOfCgroups) {
  Write("/proc/self/cgroup", "7:cpu,cpuacct:/x\n4:memory:/docker/1\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n");
  EXPECT_EQ(MemoryLimitBytes(root_), 2000);
  // What version 1 writes where there is no limit.
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(MemoryLimitBytes(root_), kMachine);
}

TEST_F(ProcessTest, StartTimeIsReadPastAnyProgramName) {
  Write("/proc/stat", "cpu 1 2\nbtime 1700000000\n");
  Write("/proc/self/stat",
        "1 (a) b (c) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 0 23\n");
  EXPECT_DOUBLE_EQ(ProcessStartSeconds(root_), 1700000000);
  Write("/proc/self/stat", "1 (cut off) S 4\n");
  EXPECT_EQ(ProcessStartSeconds(root_), 0);
  EXPECT_EQ(ProcessStartSeconds(root_ + "/none"), 0);
}

TEST_F(ProcessTest, ThisProcessIsKnown) {
  const double now = std::chrono::duration<double>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
  // The boot time is whole seconds and moves when the clock is set.
  EXPECT_NEAR(ProcessStartSeconds(), now, 3600);
  EXPECT_GT(ResidentBytes(), 100000);
  EXPECT_GT(MemoryLimitBytes(), ResidentBytes());
  EXPECT_EQ(ResidentBytes(root_), 0);
}

}  // namespace
}  // namespace shoal
