// GgufMetadata is the key-value part of a GGUF file: configuration, tokenizer
// and chat template. Parsing checks every length once and remembers where the
// values lie; the getters decode them. Strings and arrays stay in the mapped
// file, so views live as long as the GgufFile. Strings are bytes as stored and
// may be invalid UTF-8. Read-only after Parse(): any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loading/byte_cursor.h"

namespace shoal {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// "u8", "string", ...; "type 77" for an unknown number.
std::string GgufTypeName(GgufType type);

class GgufMetadata {
 public:
  struct Value {
    GgufType type = GgufType::kU8;
    GgufType element_type = GgufType::kU8;  // arrays only
    uint64_t count = 1;                     // elements of an array
    const uint8_t* data = nullptr;          // first (element's) byte
    int64_t bytes = 0;                      // extent of all elements
  };

  GgufMetadata() = default;

  // Reads `count` pairs. InvalidArgument naming `file` and the key: truncated,
  // unknown type, duplicate key, a bool other than 0 and 1, nesting over 8.
  static absl::StatusOr<GgufMetadata> Parse(const std::string& file,
                                            uint64_t count, ByteCursor& cursor);

  // By key, sorted.
  const std::map<std::string, Value, std::less<>>& values() const {
    return values_;
  }
  bool Contains(std::string_view key) const { return values_.contains(key); }

  // Each getter: NotFound when the key is absent, InvalidArgument when it has
  // another type. Integers and floats of any width convert; an integer also
  // reads as a float.
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<double> GetFloat(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloats(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> GetStrings(
      std::string_view key) const;

  // The same with a value for an absent key; a wrong type stays an error.
  absl::StatusOr<int64_t> GetInt(std::string_view key, int64_t absent) const;
  absl::StatusOr<double> GetFloat(std::string_view key, double absent) const;
  absl::StatusOr<bool> GetBool(std::string_view key, bool absent) const;
  absl::StatusOr<std::string_view> GetString(std::string_view key,
                                             std::string_view absent) const;

 private:
  absl::StatusOr<const Value*> Find(std::string_view key) const;
  // The value of an array whose elements pass `is_wanted`.
  absl::StatusOr<const Value*> FindArray(std::string_view key,
                                         bool (*is_wanted)(GgufType),
                                         std::string_view wanted) const;
  absl::Status WrongType(std::string_view key, std::string_view wanted,
                         const Value& value) const;

  std::string file_;
  std::map<std::string, Value, std::less<>> values_;
};

}  // namespace shoal
