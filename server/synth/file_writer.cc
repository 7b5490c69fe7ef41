#include "server/synth/file_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/loading/load_error.h"

namespace shoal {

namespace fs = std::filesystem;

absl::StatusOr<std::unique_ptr<FileWriter>> FileWriter::Create(
    const std::string& path) {
  const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
  const int fd = open((path + ".partial").c_str(), flags, 0644);
  std::unique_ptr<FileWriter> writer(new FileWriter(path, fd));
  if (fd < 0) return writer->Failed("create");
  return writer;
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(partial().c_str());
}

absl::Status FileWriter::Failed(const char* what) const {
  const std::error_code error(errno, std::generic_category());
  return absl::InvalidArgumentError(
      Concat({path_, ": cannot ", what, ": ", error.message()}));
}

absl::Status FileWriter::WriteAt(int64_t offset,
                                 std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Failed("write");
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
  return absl::OkStatus();
}

absl::Status FileWriter::Append(std::span<const uint8_t> bytes) {
  const int64_t offset = size_;
  size_ += std::ssize(bytes);
  return WriteAt(offset, bytes);
}

absl::Status FileWriter::Append(std::string_view text) {
  return Append(std::span<const uint8_t>(
      reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

absl::Status FileWriter::Pad(int64_t alignment) {
  const int64_t over = size_ % alignment;
  if (over == 0) return absl::OkStatus();
  return Append(std::vector<uint8_t>(alignment - over));
}

absl::Status FileWriter::Close() {
  const int fd = fd_;
  if (close(fd) != 0 || std::rename(partial().c_str(), path_.c_str()) != 0) {
    absl::Status status = Failed("finish");
    unlink(partial().c_str());
    fd_ = -1;
    return status;
  }
  fd_ = -1;
  return absl::OkStatus();
}

absl::Status CheckDiskRoom(const std::string& path, int64_t bytes) {
  std::error_code error;
  fs::path parent = fs::absolute(path, error);
  do {
    parent = parent.parent_path();
  } while (!fs::is_directory(parent, error) && parent != parent.root_path());
  const fs::space_info space = fs::space(parent, error);
  const auto free = static_cast<int64_t>(space.available);
  if (error || bytes <= free) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%s: needs %.2f GB of disk, %.2f GB are free", path,
      static_cast<double>(bytes) / 1e9, static_cast<double>(free) / 1e9));
}

absl::Status WriteFile(const std::string& path, std::string_view text) {
  absl::StatusOr<std::unique_ptr<FileWriter>> file = FileWriter::Create(path);
  if (!file.ok()) return file.status();
  absl::Status status = (*file)->Append(text);
  return status.ok() ? (*file)->Close() : status;
}

}  // namespace shoal
