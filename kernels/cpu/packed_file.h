// PackedFile keeps repacked weights from one start to the next: a file that
// holds what packing made, matrix after matrix in the order they were asked
// for. It is mapped, not read, so that a model is ready as fast as its bytes
// can be hashed, and its memory is the page cache, which processes share.
//
// Layout, little endian:
//   header   4096 bytes: "SHOALPK1", u64 bytes of data, u64 XXH3 of the table,
//            XXH3 of the key (128 bits, big endian)
//   data     matrices, each at a multiple of 64 bytes
//   table    u64 XXH3 of every 16 MiB of the data
// XXH3: the hash of the xxHash library, 64 bits, seed 0. A file is trusted as
// the model is: the hashes find what a full disk or a crash left, not an
// attacker. The file must not shrink while it is mapped (SIGBUS). Threads: one
// caller at a time; what was taken may be read by all.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/thread_pool.h"

namespace shoal {

class PackedFile {
 public:
  // Opens `path` for reading if it is whole and of `key`, which names all that
  // the contents depend on. Else begins it anew, as PATH.partial until Finish()
  // names it, with up to `max_bytes`; waits while another process does so.
  // NotFound, PermissionDenied, … of the system for a path that cannot be
  // written. `pool` hashes.
  static absl::StatusOr<std::unique_ptr<PackedFile>> Open(
      const std::string& path, const std::string& key, int64_t max_bytes,
      ThreadPool& pool);

  ~PackedFile();  // removes what was not finished
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;

  // Whether the matrices are there; else the caller is to fill them in.
  bool is_packed() const { return is_packed_; }
  // The next matrix's memory, 64-byte aligned, valid as long as the object.
  // ResourceExhausted on a full disk, FailedPrecondition beyond what the file
  // holds.
  absl::StatusOr<uint8_t*> Take(int64_t bytes);
  // Everything has been taken and filled: a new file is hashed and named.
  // FailedPrecondition if an old one holds more than was taken.
  absl::Status Finish(ThreadPool& pool);

 private:
  PackedFile(std::string path, std::string key);

  // Whether the file at path_ can be read; maps it if so.
  bool Map(ThreadPool& pool);
  // False if another process has just finished it: to be mapped again.
  absl::StatusOr<bool> Begin(int64_t max_bytes);
  absl::Status Grow(int64_t end);
  uint8_t* data() const;

  const std::string path_;
  const std::string key_;
  std::string written_path_;  // until it has its name; empty: none
  int file_ = -1;             // while written
  uint8_t* mapping_ = nullptr;
  int64_t mapped_bytes_ = 0;
  int64_t allocated_ = 0;  // of the file, while written
  int64_t data_bytes_ = 0;
  int64_t used_ = 0;  // of the data
  bool is_packed_ = false;
};

}  // namespace shoal
