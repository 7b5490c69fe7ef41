#include "engine/loading/field_reader.h"

#include <cmath>
#include <utility>

#include "engine/loading/load_error.h"

namespace shoal {
namespace {

std::string Range(const MessagePart& kind, const MessagePart& low,
                  const MessagePart& high) {
  return Concat({kind, " from ", low, " to ", high});
}

}  // namespace

void FieldReader::Adopt(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void FieldReader::Reject(std::string_view key, std::string_view expected,
                         std::string_view got) {
  Adopt(BadField(file_, Concat({prefix_, key}), expected, got));
}

void FieldReader::RejectUnsupported(std::string_view key,
                                    std::string_view expected,
                                    std::string_view got) {
  Adopt(absl::UnimplementedError(Concat(
      {file_, ": ", prefix_, key, ": expected ", expected, ", got ", got})));
}

JsonValue FieldReader::Get(std::string_view key) {
  if (!ok()) return JsonValue();
  auto value = lookup_(prefix_ + std::string(key));
  if (value.ok()) return *std::move(value);
  Adopt(value.status());
  return JsonValue();
}

bool FieldReader::Has(std::string_view key) { return !Get(key).is_null(); }

int64_t FieldReader::Int(std::string_view key, int64_t low, int64_t high,
                         std::optional<int64_t> absent) {
  const JsonValue value = Get(key);
  if (value.is_null() && absent) return *absent;
  const int64_t* number = value.as_int();
  if (number != nullptr && *number >= low && *number <= high) return *number;
  Reject(key, Range("an integer", low, high), value.Describe());
  return absent.value_or(low);
}

double FieldReader::Number(std::string_view key, double low, double high,
                           std::optional<double> absent) {
  const JsonValue value = Get(key);
  if (value.is_null() && absent) return *absent;
  double number = std::nan("");
  if (value.as_int() != nullptr) number = static_cast<double>(*value.as_int());
  if (value.as_double() != nullptr) number = *value.as_double();
  if (number >= low && number <= high) return number;  // false for NaN
  Reject(key, Range("a number", low, high), value.Describe());
  return absent.value_or(low);
}

bool FieldReader::Bool(std::string_view key, bool absent) {
  const JsonValue value = Get(key);
  if (value.is_null()) return absent;
  if (value.as_bool() != nullptr) return *value.as_bool();
  Reject(key, "true or false", value.Describe());
  return absent;
}

std::string FieldReader::String(std::string_view key,
                                std::optional<std::string> absent) {
  const JsonValue value = Get(key);
  if (value.is_null() && absent) return *absent;
  if (value.as_string() != nullptr) return *value.as_string();
  Reject(key, "a string", value.Describe());
  return absent.value_or("");
}

std::vector<int64_t> FieldReader::Ints(std::string_view key, int64_t low,
                                       int64_t high) {
  const JsonValue value = Get(key);
  if (value.is_null()) return {};
  JsonValue::Array single;
  const JsonValue::Array* items = value.as_array();
  if (items == nullptr) {
    single.push_back(value);
    items = &single;
  }
  std::vector<int64_t> numbers;
  for (const JsonValue& item : *items) {
    const int64_t* number = item.as_int();
    if (number == nullptr || *number < low || *number > high) {
      Reject(key, Range("integers", low, high), item.Describe());
      return {};
    }
    numbers.push_back(*number);
  }
  return numbers;
}

}  // namespace shoal
