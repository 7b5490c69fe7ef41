// FieldReader reads the typed, range-checked fields of a configuration, be it
// config.json or GGUF metadata. The first thing wrong is kept and every later
// read returns its fallback, so that a reader of thirty fields checks once:
//
//   FieldReader fields(file, "", lookup);
//   config.hidden_size = fields.Int("hidden_size", 1, kMaxHidden);
//   if (!fields.status().ok()) return fields.status();
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loading/json_value.h"

namespace shoal {

class FieldReader {
 public:
  // The value of a key; null when absent. Its error becomes the reader's.
  using Lookup = std::function<absl::StatusOr<JsonValue>(std::string_view)>;

  // `prefix` is put before every key in messages and look-ups.
  FieldReader(std::string file, std::string prefix, Lookup lookup)
      : file_(std::move(file)),
        prefix_(std::move(prefix)),
        lookup_(std::move(lookup)) {}

  const std::string& file() const { return file_; }
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

  // Whether the key has a value other than null.
  bool Has(std::string_view key);
  // null when absent.
  JsonValue Get(std::string_view key);

  // An integer in [low, high]; without `absent` the field is required.
  int64_t Int(std::string_view key, int64_t low, int64_t high,
              std::optional<int64_t> absent = std::nullopt);
  // A finite number in [low, high].
  double Number(std::string_view key, double low, double high,
                std::optional<double> absent = std::nullopt);
  bool Bool(std::string_view key, bool absent);
  std::string String(std::string_view key,
                     std::optional<std::string> absent = std::nullopt);
  // An integer or an array of them, each in [low, high]; empty when absent.
  std::vector<int64_t> Ints(std::string_view key, int64_t low, int64_t high);

  // Records "FILE: KEY: expected ..., got ..." unless an error is there
  // already.
  void Reject(std::string_view key, std::string_view expected,
              std::string_view got);
  // The same with code Unimplemented: a legal value that is not supported.
  void RejectUnsupported(std::string_view key, std::string_view expected,
                         std::string_view got);
  // Takes over the error of a reader of a part, if this one has none.
  void Adopt(absl::Status status);

 private:
  std::string file_;
  std::string prefix_;
  Lookup lookup_;
  absl::Status status_;
};

}  // namespace shoal
