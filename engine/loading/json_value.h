// JsonValue is a parsed JSON document from a model folder: untrusted, so
// parsing bounds depth and size, and refuses an object that names a key twice
// (two readers would see two models).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Object = std::map<std::string, JsonValue, std::less<>>;

  JsonValue() = default;  // null
  template <typename T>
  explicit JsonValue(T value) : value_(std::move(value)) {}

  bool is_null() const {
    return std::holds_alternative<std::monostate>(value_);
  }
  // Each returns nullptr when the value is of another kind. An integer that
  // fits int64 is an int64_t, every other number a double.
  const bool* as_bool() const { return std::get_if<bool>(&value_); }
  const int64_t* as_int() const { return std::get_if<int64_t>(&value_); }
  const double* as_double() const { return std::get_if<double>(&value_); }
  const std::string* as_string() const {
    return std::get_if<std::string>(&value_);
  }
  const Array* as_array() const { return std::get_if<Array>(&value_); }
  const Object* as_object() const { return std::get_if<Object>(&value_); }
  Array* mutable_array() { return std::get_if<Array>(&value_); }
  Object* mutable_object() { return std::get_if<Object>(&value_); }

  // Short description for messages: null, true, 7, "text", an array, ...
  std::string Describe() const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array,
               Object>
      value_;
};

struct JsonLimits {
  int64_t max_bytes = int64_t{64} << 20;
  int64_t max_values = 4'000'000;
  int max_depth = 64;
};

// InvalidArgument naming `file`: a syntax error (with its byte), a duplicate
// key, or a limit exceeded.
absl::StatusOr<JsonValue> ParseJson(const std::string& file,
                                    std::string_view text,
                                    const JsonLimits& limits = {});

// The same for a whole file. Errors of MappedFile::Open() pass through.
absl::StatusOr<JsonValue> ParseJsonFile(const std::string& path,
                                        const JsonLimits& limits = {});

}  // namespace shoal
