// MappedFile is a whole file mapped read-only into memory. Weights are used
// where they lie, so opening costs nothing however large the file is and the
// page cache is shared between processes. The file must not shrink while it is
// mapped: reading past its new end is fatal (SIGBUS).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

class MappedFile {
 public:
  // NotFound (no such file), PermissionDenied, InvalidArgument (not a regular
  // file), Internal (the mapping failed); each message names the path.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(
      const std::string& path);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  // Page aligned; nullptr for an empty file.
  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }
  // Name, size and time of the last change: another text, another content.
  std::string Fingerprint() const;
  std::string_view contents() const {
    return {reinterpret_cast<const char*>(data_), static_cast<size_t>(size_)};
  }
  // Whether [address, address + bytes) lies within the mapping.
  bool Contains(const void* address, int64_t bytes) const;

  // Gives the memory of the whole pages inside [address, address + bytes) back
  // to the system; reading them again reads the file.
  // REQUIRES: Contains(address, bytes).
  void DropPages(const void* address, int64_t bytes) const;

 private:
  MappedFile(std::string path, const uint8_t* data, int64_t size,
             int64_t modified)
      : path_(std::move(path)), data_(data), size_(size), modified_(modified) {}

  std::string path_;
  const uint8_t* data_;
  int64_t size_;
  int64_t modified_;  // nanoseconds since the epoch
};

// Tells the kernel that these bytes of some mapped file will be read soon, so
// that it reads them in large pieces and ahead of time. A hint; does not wait.
void PrefetchPages(const void* address, int64_t bytes);

}  // namespace shoal
