// Reading JSON that comes from outside: a parser that bounds depth and refuses
// what two readers could read differently, and typed access to members whose
// errors name the parameter. Included by this folder's sources only, so that
// the JSON library stays out of every contract.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shoal {

// Keeps the members' order: chat templates print tools as they came.
using Json = nlohmann::ordered_json;

// InvalidArgument for anything but one JSON object in valid UTF-8: syntax,
// nesting deeper than 64, a key twice in one object or more than 4096 of them,
// a number out of range.
absl::StatusOr<Json> ParseJsonObject(std::string_view text);

// One line; bytes that are no UTF-8 become U+FFFD.
std::string DumpJson(const Json& json);

// InvalidArgument with `param` and `code`.
absl::Status ParamError(std::string_view param, std::string_view message,
                        std::string_view code = "invalid_value");

// Members of one object. A member that is absent or null gives nothing; one of
// the wrong type or out of range gives nothing and sets status(), which keeps
// the first error. `path` prefixes names in errors ("messages[3].").
class JsonFields {
 public:
  // REQUIRES: `object` is one, and outlives this.
  explicit JsonFields(const Json& object, std::string path = "")
      : object_(object), path_(std::move(path)) {}

  // The member, or nullptr where absent or null.
  const Json* Get(const char* name) const;
  // Both ends belong to the range. An integral number such as 16.0 is one.
  std::optional<int64_t> Int(const char* name, int64_t low, int64_t high);
  // Finite as a float, too.
  std::optional<float> Number(const char* name, double low, double high);
  std::optional<bool> Bool(const char* name);
  std::optional<std::string> String(const char* name);
  // Ids in [0, 2^31).
  std::optional<std::vector<int32_t>> TokenIds(const char* name, size_t most);

  void Fail(const std::string& name, const std::string& message,
            std::string_view code = "invalid_value");
  // Keeps the first error of an inner object, too.
  void Adopt(const absl::Status& inner) { status_.Update(inner); }
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

 private:
  const Json& object_;
  const std::string path_;
  absl::Status status_;
};

// Token ids of a JSON array, or nothing if it holds anything else.
std::optional<std::vector<int32_t>> ReadTokenIds(const Json& array);

}  // namespace shoal
