#include "kernels/cpu/packed_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace shoal {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
// More than one hashed piece, and a piece that is not whole.
const std::vector<int64_t> kSizes = {1, 64, 20 * kMiB + 5, 4096};

uint8_t ByteOf(int64_t matrix, int64_t at) {
  return static_cast<uint8_t>(matrix * 31 + at % 251);
}

class PackedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/packedXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ + "/weights.packed";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<PackedFile> Open(const std::string& key = "key") {
    auto file = PackedFile::Open(path_, key, 64 * kMiB, pool_);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }

  // Takes all matrices; fills them in, or expects them.
  static void FillOrExpect(PackedFile& file) {
    for (size_t i = 0; i < kSizes.size(); ++i) {
      const auto data = file.Take(kSizes[i]);
      ASSERT_TRUE(data.ok()) << data.status();
      EXPECT_EQ(reinterpret_cast<uintptr_t>(*data) % 64, 0u);
      for (int64_t at = 0; at < kSizes[i]; ++at) {
        const uint8_t byte = ByteOf(static_cast<int64_t>(i), at);
        if (file.is_packed()) {
          ASSERT_EQ((*data)[at], byte) << "matrix " << i << " at " << at;
        } else {
          (*data)[at] = byte;
        }
      }
    }
  }

  void Write(const std::string& key = "key") {
    const auto file = Open(key);
    ASSERT_FALSE(file->is_packed());
    FillOrExpect(*file);
    const absl::Status status = file->Finish(pool_);
    ASSERT_TRUE(status.ok()) << status;
  }

  int FilesInFolder() const {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      count += entry.is_regular_file();
    }
    return count;
  }

  void Flip(int64_t at) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const int byte = file.get();
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 0x10));
    ASSERT_TRUE(file.good());
  }

  ThreadPool pool_{2};
  std::string folder_;
  std::string path_;
};

TEST_F(PackedFileTest, TheSecondTimeTheMatricesAreThere) {
  Write();
  EXPECT_EQ(FilesInFolder(), 1);
  const auto file = Open();
  EXPECT_TRUE(file->is_packed());
  FillOrExpect(*file);
  EXPECT_TRUE(file->Finish(pool_).ok());
}

TEST_F(PackedFileTest, WhatWasTakenStaysReadableOnceFinished) {
  const auto file = Open();
  const auto data = file->Take(100);
  ASSERT_TRUE(data.ok());
  std::memset(*data, 7, 100);
  ASSERT_TRUE(file->Finish(pool_).ok());
  EXPECT_EQ((*data)[99], 7);
}

TEST_F(PackedFileTest, AnotherKeyBeginsAnew) {
  Write("one");
  Write("two");
  EXPECT_TRUE(Open("two")->is_packed());
  EXPECT_FALSE(Open("one")->is_packed());
}

// Header (each field), data (each piece), table.
TEST_F(PackedFileTest, ADamagedByteBeginsAnew) {
  Write();
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path_));
  for (const int64_t at :
       {int64_t{0}, int64_t{8}, int64_t{15}, int64_t{16}, int64_t{24},
        int64_t{39}, int64_t{4096}, 5 * kMiB, 18 * kMiB, size - 16, size - 1}) {
    Flip(at);
    EXPECT_FALSE(Open()->is_packed()) << at;
    Flip(at);
  }
  EXPECT_TRUE(Open()->is_packed());
}

TEST_F(PackedFileTest, AShortOrLongFileBeginsAnew) {
  Write();
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path_));
  for (const int64_t bytes :
       {size + 1, size - 1, 17 * kMiB, int64_t{4096}, int64_t{0}}) {
    std::filesystem::resize_file(path_, bytes);
    EXPECT_FALSE(Open()->is_packed()) << bytes;
  }
  Write();
}

TEST_F(PackedFileTest, WhatIsNotFinishedLeavesNothing) {
  {
    const auto file = Open();
    FillOrExpect(*file);
    EXPECT_EQ(FilesInFolder(), 1);
  }
  EXPECT_EQ(FilesInFolder(), 0);
}

TEST_F(PackedFileTest, AKilledProcessesFileIsTakenOver) {
  std::ofstream(path_ + ".partial") << std::string(10000, 'x');
  Write();
  EXPECT_EQ(FilesInFolder(), 1);
  EXPECT_TRUE(Open()->is_packed());
}

TEST_F(PackedFileTest, OfTwoAtOnceOneWrites) {
  auto first = Open();
  ASSERT_FALSE(first->is_packed());
  bool second_was_packed = false;
  std::thread second([&] {
    ThreadPool pool(1);
    const auto file = PackedFile::Open(path_, "key", 64 * kMiB, pool);
    ASSERT_TRUE(file.ok()) << file.status();
    second_was_packed = (*file)->is_packed();
    FillOrExpect(**file);
  });
  FillOrExpect(*first);
  EXPECT_TRUE(first->Finish(pool_).ok());
  second.join();
  EXPECT_TRUE(second_was_packed);
}

TEST_F(PackedFileTest, MoreOrFewerMatricesAreErrors) {
  Write();
  auto file = Open();
  FillOrExpect(*file);
  const auto more = file->Take(1);
  EXPECT_EQ(more.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(more.status().message().find(path_), std::string::npos);

  file = Open();
  ASSERT_TRUE(file->Take(1).ok());
  EXPECT_EQ(file->Finish(pool_).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PackedFileTest, MoreThanTheMostIsAnError) {
  const auto file = PackedFile::Open(path_, "key", kMiB, pool_);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Take(int64_t{1} << 40).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(PackedFileTest, AFolderThatIsMissingIsAnError) {
  path_ = folder_ + "/missing/weights.packed";
  const auto file = PackedFile::Open(path_, "key", kMiB, pool_);
  EXPECT_EQ(file.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(file.status().message().find(path_), std::string::npos);
}

}  // namespace
}  // namespace shoal
