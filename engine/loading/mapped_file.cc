#include "engine/loading/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace shoal {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(
    const std::string& path) {
  // O_NONBLOCK: opening a FIFO nobody writes to must fail below, not hang.
  const FileDescriptor fd(
      open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot open"));
  }
  struct stat info;
  if (fstat(fd.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot stat"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected a regular file"));
  }
  const int64_t size = info.st_size;
  const int64_t modified =
      int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  if (size == 0) {
    return std::unique_ptr<MappedFile>(
        new MappedFile(path, nullptr, 0, modified));
  }
  void* address = mmap(nullptr, static_cast<size_t>(size), PROT_READ,
                       MAP_PRIVATE, fd.get(), 0);
  if (address == MAP_FAILED) {
    return absl::InternalError(
        absl::StrCat(path, ": mapping ", size, " bytes failed, errno ", errno));
  }
  return std::unique_ptr<MappedFile>(new MappedFile(
      path, static_cast<const uint8_t*>(address), size, modified));
}

std::string MappedFile::Fingerprint() const {
  return absl::StrCat(path_.substr(path_.rfind('/') + 1), " ", size_, " ",
                      modified_);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
  }
}

bool MappedFile::Contains(const void* address, int64_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(data_);
  const auto at = reinterpret_cast<uintptr_t>(address);
  return data_ != nullptr && bytes >= 0 && at >= begin &&
         at - begin <= static_cast<uint64_t>(size_) &&
         static_cast<uint64_t>(bytes) <=
             static_cast<uint64_t>(size_) - (at - begin);
}

void MappedFile::DropPages(const void* address, int64_t bytes) const {
  SHOAL_CHECK(Contains(address, bytes));
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + static_cast<uintptr_t>(bytes)) / page * page;
  if (first < last) {
    // A hint: failing costs memory, never correctness.
    madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }
}

void PrefetchPages(const void* address, int64_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const uintptr_t first = begin / page * page;
  madvise(reinterpret_cast<void*>(first),
          begin + static_cast<uintptr_t>(bytes) - first, MADV_WILLNEED);
}

}  // namespace shoal
