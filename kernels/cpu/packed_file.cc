#include "kernels/cpu/packed_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shoal {
namespace {

constexpr char kMagic[8] = {'S', 'H', 'O', 'A', 'L', 'P', 'K', '1'};
constexpr int64_t kHeaderBytes = 4096;
constexpr int64_t kAlignment = 64;
constexpr int64_t kHashedPiece = int64_t{16} << 20;
constexpr int64_t kGrowth = int64_t{256} << 20;

struct Header {
  char magic[8];
  uint64_t data_bytes;
  uint64_t table_hash;
  XXH128_canonical_t key_hash;
};
static_assert(sizeof(Header) <= kHeaderBytes);

int64_t RoundUp(int64_t bytes, int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

int64_t NumPieces(int64_t data_bytes) {
  return (data_bytes + kHashedPiece - 1) / kHashedPiece;
}

// The hash of every piece, by all threads.
std::vector<uint64_t> HashPieces(const uint8_t* data, int64_t bytes,
                                 ThreadPool& pool) {
  std::vector<uint64_t> hashes(NumPieces(bytes));
  pool.For(static_cast<int64_t>(hashes.size()), 1,
           [&](int64_t begin, int64_t end, int) {
             for (int64_t i = begin; i < end; ++i) {
               const int64_t first = i * kHashedPiece;
               hashes[i] = XXH3_64bits(data + first,
                                       std::min(kHashedPiece, bytes - first));
             }
           });
  return hashes;
}

uint64_t HashTable(const uint64_t* table, int64_t entries) {
  return XXH3_64bits(table, entries * sizeof(uint64_t));
}

XXH128_canonical_t HashKey(const std::string& key) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(key.data(), key.size()));
  return canonical;
}

absl::Status SystemError(const std::string& path, const char* what) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": ", what));
}

}  // namespace

PackedFile::PackedFile(std::string path, std::string key)
    : path_(std::move(path)), key_(std::move(key)) {}

PackedFile::~PackedFile() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_bytes_);
  if (!written_path_.empty()) unlink(written_path_.c_str());
  if (file_ >= 0) close(file_);  // and lets others lock
}

uint8_t* PackedFile::data() const { return mapping_ + kHeaderBytes; }

absl::StatusOr<std::unique_ptr<PackedFile>> PackedFile::Open(
    const std::string& path, const std::string& key, int64_t max_bytes,
    ThreadPool& pool) {
  std::unique_ptr<PackedFile> file(new PackedFile(path, key));
  while (!file->Map(pool)) {
    absl::StatusOr<bool> begun = file->Begin(max_bytes);
    if (!begun.ok()) return begun.status();
    if (*begun) break;
  }
  return file;
}

bool PackedFile::Map(ThreadPool& pool) {
  const int file = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return false;
  struct stat info;
  const bool sized = fstat(file, &info) == 0 && S_ISREG(info.st_mode) &&
                     info.st_size >= kHeaderBytes;
  void* mapping = MAP_FAILED;
  if (sized) {
    mapping = mmap(nullptr, info.st_size, PROT_READ, MAP_SHARED, file, 0);
  }
  close(file);
  if (mapping == MAP_FAILED) return false;
  mapping_ = static_cast<uint8_t*>(mapping);
  mapped_bytes_ = info.st_size;

  const auto* header = reinterpret_cast<const Header*>(mapping_);
  const XXH128_canonical_t key_hash = HashKey(key_);
  const auto data_bytes = static_cast<int64_t>(header->data_bytes);
  const bool fits =
      std::memcmp(header->magic, kMagic, sizeof(kMagic)) == 0 &&
      std::memcmp(&header->key_hash, &key_hash, sizeof(key_hash)) == 0 &&
      data_bytes >= 0 && data_bytes <= mapped_bytes_ &&
      data_bytes % kAlignment == 0 &&
      kHeaderBytes + data_bytes + NumPieces(data_bytes) * 8 == mapped_bytes_;
  if (fits) {
    const auto* table = reinterpret_cast<const uint64_t*>(data() + data_bytes);
    const int64_t pieces = NumPieces(data_bytes);
    madvise(mapping_, mapped_bytes_, MADV_WILLNEED);
    if (HashTable(table, pieces) == header->table_hash &&
        HashPieces(data(), data_bytes, pool) ==
            std::vector<uint64_t>(table, table + pieces)) {
      data_bytes_ = data_bytes;
      is_packed_ = true;
      return true;
    }
  }
  munmap(mapping_, mapped_bytes_);
  mapping_ = nullptr;
  return false;
}

absl::StatusOr<bool> PackedFile::Begin(int64_t max_bytes) {
  // One name, so that a killed process's file is taken over; one lock, so that
  // of many processes one writes and the others wait for what it made.
  std::string path = path_ + ".partial";
  file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file_ < 0) return SystemError(path, "cannot write repacked weights");
  struct stat locked, named;
  if (flock(file_, LOCK_EX) != 0) return SystemError(path, "flock");
  if (fstat(file_, &locked) != 0 || stat(path.c_str(), &named) != 0 ||
      locked.st_ino != named.st_ino) {
    close(file_);  // the other one has finished it, or given up
    file_ = -1;
    return false;
  }
  written_path_ = std::move(path);
  if (ftruncate(file_, 0) != 0) return SystemError(written_path_, "ftruncate");
  // Addresses for all of it, so that it grows without moving.
  const int64_t table_bytes = NumPieces(max_bytes) * 8;
  mapped_bytes_ = RoundUp(kHeaderBytes + max_bytes + table_bytes, kGrowth);
  void* mapping = mmap(nullptr, mapped_bytes_, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return SystemError(written_path_, "mmap");
  mapping_ = static_cast<uint8_t*>(mapping);
  absl::Status status = Grow(kHeaderBytes);
  if (!status.ok()) return status;
  return true;
}

// Blocks of the disk come before the pages: writing to a page that has none
// would be fatal on a full disk.
absl::Status PackedFile::Grow(int64_t end) {
  if (end <= allocated_) return absl::OkStatus();
  const int64_t wanted = RoundUp(end, kGrowth);
  if (wanted > mapped_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(written_path_, ": more than its most bytes of weights"));
  }
  errno = posix_fallocate(file_, allocated_, wanted - allocated_);
  if (errno != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat(written_path_, ": no room for ", wanted - allocated_,
                     " bytes of repacked weights: ", std::strerror(errno)));
  }
  void* part =
      mmap(mapping_ + allocated_, wanted - allocated_, PROT_READ | PROT_WRITE,
           MAP_SHARED | MAP_FIXED, file_, allocated_);
  if (part == MAP_FAILED) return SystemError(written_path_, "mmap");
  allocated_ = wanted;
  return absl::OkStatus();
}

absl::StatusOr<uint8_t*> PackedFile::Take(int64_t bytes) {
  const int64_t end = used_ + RoundUp(bytes, kAlignment);
  if (is_packed_) {
    if (end > data_bytes_) {
      return absl::FailedPreconditionError(absl::StrCat(
          path_, ": holds fewer weights than the model has; remove it"));
    }
  } else {
    absl::Status status = Grow(kHeaderBytes + end);
    if (!status.ok()) return status;
  }
  uint8_t* taken = data() + used_;
  used_ = end;
  return taken;
}

absl::Status PackedFile::Finish(ThreadPool& pool) {
  if (is_packed_) {
    if (used_ == data_bytes_) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ": holds more weights than the model has; remove it"));
  }
  const std::vector<uint64_t> table = HashPieces(data(), used_, pool);
  const auto table_bytes = static_cast<int64_t>(table.size() * 8);
  absl::Status status = Grow(kHeaderBytes + used_ + table_bytes);
  if (!status.ok()) return status;
  std::memcpy(data() + used_, table.data(), table_bytes);
  auto* header = reinterpret_cast<Header*>(mapping_);
  std::memcpy(header->magic, kMagic, sizeof(kMagic));
  header->data_bytes = used_;
  header->table_hash =
      HashTable(table.data(), static_cast<int64_t>(table.size()));
  header->key_hash = HashKey(key_);
  if (ftruncate(file_, kHeaderBytes + used_ + table_bytes) != 0) {
    return SystemError(written_path_, "ftruncate");
  }
  mprotect(mapping_, allocated_, PROT_READ);
  if (rename(written_path_.c_str(), path_.c_str()) != 0) {
    return SystemError(path_, "rename");
  }
  written_path_.clear();
  flock(file_, LOCK_UN);  // the mapping would keep it locked
  close(file_);
  file_ = -1;
  data_bytes_ = used_;
  is_packed_ = true;
  return absl::OkStatus();
}

}  // namespace shoal
