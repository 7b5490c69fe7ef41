// FileWriter writes a large file piece by piece. The file has a working name
// until Close(), so that what lies under its own name is whole; a writer that
// is destroyed before removes what it wrote.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

class FileWriter {
 public:
  // Creates PATH.partial; one that is left from an earlier run is replaced.
  // InvalidArgument naming the file, as for all errors of the system.
  static absl::StatusOr<std::unique_ptr<FileWriter>> Create(
      const std::string& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  absl::Status Append(std::span<const uint8_t> bytes);
  absl::Status Append(std::string_view text);
  // Zeros up to a multiple of `alignment`.
  absl::Status Pad(int64_t alignment);
  // Bytes appended.
  int64_t size() const { return size_; }
  // Writes at a place of its own, which Append() does not come to.
  absl::Status WriteAt(int64_t offset, std::span<const uint8_t> bytes);
  // Replaces what PATH was. REQUIRES: nothing is called after it.
  absl::Status Close();

 private:
  FileWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string partial() const { return path_ + ".partial"; }
  absl::Status Failed(const char* what) const;

  const std::string path_;
  int fd_;
  int64_t size_ = 0;
};

// ResourceExhausted when the disk that `path` lies on, or will lie on, has less
// than `bytes` to give. Ok where the system does not tell.
absl::Status CheckDiskRoom(const std::string& path, int64_t bytes);

// A small file at once.
absl::Status WriteFile(const std::string& path, std::string_view text);

}  // namespace shoal
