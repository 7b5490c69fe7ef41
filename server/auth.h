// ApiKeys checks bearer tokens against the keys of --api-key-file: one a line,
// "key" or "name:key"; '#' starts a comment. Keys are kept as SHA-256 digests
// and compared in constant time over all entries. Thread safe after loading.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

class ApiKeys {
 public:
  ApiKeys() = default;  // no keys: everything is allowed

  // NotFound/PermissionDenied (unreadable, or readable by others) or
  // InvalidArgument (no key in the file, line too long), naming the file.
  static absl::StatusOr<ApiKeys> Load(const std::string& path);

  bool required() const { return !entries_.empty(); }
  // The tenant's name of a key ("default" for unnamed ones); nothing if the key
  // is unknown. With no keys loaded every key, the empty one too, is "default".
  std::optional<std::string> Check(std::string_view key) const;
  // The key of an "Authorization: Bearer ..." value; empty if not of that form.
  static std::string_view BearerToken(std::string_view authorization);

 private:
  struct Entry {
    std::string name;
    std::array<uint8_t, 32> digest;
  };
  std::vector<Entry> entries_;
};

}  // namespace shoal
