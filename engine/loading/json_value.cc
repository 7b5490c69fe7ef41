#include "engine/loading/json_value.h"

#include <exception>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/loading/load_error.h"
#include "engine/loading/mapped_file.h"

namespace shoal {
namespace {

// Builds the value from parser events, so that limits stop the parse where
// they are exceeded.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(const std::string& file, const JsonLimits& limits)
      : file_(file), limits_(limits) {}

  JsonValue& root() { return root_; }
  const absl::Status& status() const { return status_; }

  bool null() override { return Add(JsonValue()); }
  bool boolean(bool value) override { return Add(JsonValue(value)); }
  bool number_integer(number_integer_t value) override {
    return Add(JsonValue(static_cast<int64_t>(value)));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX)) {
      return Add(JsonValue(static_cast<double>(value)));
    }
    return Add(JsonValue(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t&) override {
    return Add(JsonValue(static_cast<double>(value)));
  }
  bool string(string_t& value) override {
    return Add(JsonValue(std::move(value)));
  }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override {
    return Open(JsonValue(JsonValue::Object()));
  }
  bool start_array(size_t) override {
    return Open(JsonValue(JsonValue::Array()));
  }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    auto& object = *open_.back()->mutable_object();
    auto [it, added] = object.emplace(name, JsonValue());
    if (!added) {
      return Fail(BadField(file_, Concat({"key ", Quoted(name)}), "one value",
                           "a duplicate key"));
    }
    slot_ = &it->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(BadField(file_, "JSON", "valid JSON",
                         Concat({"a syntax error at byte ", position})));
  }

 private:
  bool Fail(absl::Status status) {
    status_ = std::move(status);
    return false;
  }

  // Puts `value` where the parser stands; nullptr when there are too many.
  JsonValue* Place(JsonValue value) {
    if (++num_values_ > limits_.max_values) {
      Fail(BadField(file_, "JSON",
                    Concat({"at most ", limits_.max_values, " values"}),
                    "more"));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (auto* array = open_.back()->mutable_array()) {
      array->push_back(std::move(value));
      return &array->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool Add(JsonValue value) { return Place(std::move(value)) != nullptr; }

  bool Open(JsonValue value) {
    if (static_cast<int>(open_.size()) == limits_.max_depth) {
      return Fail(BadField(file_, "JSON",
                           Concat({"nesting of at most ", limits_.max_depth}),
                           "more"));
    }
    JsonValue* placed = Place(std::move(value));
    if (placed == nullptr) return false;
    open_.push_back(placed);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  const std::string& file_;
  const JsonLimits& limits_;
  absl::Status status_;
  JsonValue root_;
  // Containers from the root to the current one. Stable: only the innermost
  // one grows.
  std::vector<JsonValue*> open_;
  JsonValue* slot_ = nullptr;  // value of the key read last
  int64_t num_values_ = 0;
};

}  // namespace

std::string JsonValue::Describe() const {
  if (is_null()) return "null";
  if (const bool* value = as_bool()) return *value ? "true" : "false";
  if (const int64_t* value = as_int()) return Concat({*value});
  if (const double* value = as_double()) return Concat({*value});
  if (const std::string* value = as_string()) return Quoted(*value);
  return as_array() != nullptr ? "an array" : "an object";
}

absl::StatusOr<JsonValue> ParseJson(const std::string& file,
                                    std::string_view text,
                                    const JsonLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    return BadField(file, "size", Concat({"at most ", limits.max_bytes}),
                    Concat({text.size(), " bytes"}));
  }
  Builder builder(file, limits);
  try {
    if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) {
      return std::move(builder.root());
    }
  } catch (const std::exception&) {
    return BadField(file, "JSON", "valid JSON", "an unreadable document");
  }
  if (!builder.status().ok()) return builder.status();
  return BadField(file, "JSON", "valid JSON", "an unreadable document");
}

absl::StatusOr<JsonValue> ParseJsonFile(const std::string& path,
                                        const JsonLimits& limits) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  return ParseJson(path, (*file)->contents(), limits);
}

}  // namespace shoal
