#include "engine/loading/gguf_metadata.h"

#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "engine/loading/load_error.h"

namespace shoal {
namespace {

constexpr int kMaxArrayNesting = 8;

// Bytes of a fixed-size element; 0 for strings, arrays and unknown types.
int64_t ElementBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    default:
      return 0;
  }
}

bool IsInt(GgufType type) {
  return ElementBytes(type) != 0 && type != GgufType::kBool &&
         type != GgufType::kF32 && type != GgufType::kF64;
}

bool IsNumber(GgufType type) {
  return ElementBytes(type) != 0 && type != GgufType::kBool;
}

bool IsString(GgufType type) { return type == GgufType::kString; }

template <typename T>
T LoadAs(const uint8_t* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

// Calls `use` with the number at `data`. REQUIRES: IsNumber(type).
template <typename Use>
auto VisitNumber(GgufType type, const uint8_t* data, Use use) {
  switch (type) {
    case GgufType::kU8:
      return use(*data);
    case GgufType::kI8:
      return use(LoadAs<int8_t>(data));
    case GgufType::kU16:
      return use(LoadAs<uint16_t>(data));
    case GgufType::kI16:
      return use(LoadAs<int16_t>(data));
    case GgufType::kU32:
      return use(LoadAs<uint32_t>(data));
    case GgufType::kI32:
      return use(LoadAs<int32_t>(data));
    case GgufType::kU64:
      return use(LoadAs<uint64_t>(data));
    case GgufType::kI64:
      return use(LoadAs<int64_t>(data));
    case GgufType::kF64:
      return use(LoadAs<double>(data));
    default:
      return use(LoadAs<float>(data));
  }
}

double ToDouble(GgufType type, const uint8_t* data) {
  return VisitNumber(type, data,
                     [](auto number) { return static_cast<double>(number); });
}

// nullopt: a u64 beyond int64. REQUIRES: IsInt(type).
std::optional<int64_t> ToInt(GgufType type, const uint8_t* data) {
  if (type == GgufType::kU64 &&
      LoadAs<uint64_t>(data) >
          static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return std::nullopt;
  }
  return VisitNumber(type, data,
                     [](auto number) { return static_cast<int64_t>(number); });
}

// What parsing one value may find wrong; the caller adds file and key.
struct Fault {
  std::string expected;
  std::string got;
};

std::optional<Fault> SkipElements(ByteCursor& cursor, GgufType type,
                                  uint64_t count, int depth) {
  const int64_t start = cursor.position();
  const auto truncated = [&] {
    return Fault{Concat({count, " ", GgufTypeName(type), " at byte ", start}),
                 Concat({cursor.remaining(), " bytes to the end of the file"})};
  };
  if (type == GgufType::kString) {
    std::string_view text;
    for (uint64_t i = 0; i < count; ++i) {
      if (!cursor.ReadString(&text)) return truncated();
    }
    return std::nullopt;
  }
  if (type == GgufType::kArray) {
    if (depth == kMaxArrayNesting) {
      return Fault{Concat({"arrays nested at most ", kMaxArrayNesting}),
                   "deeper ones"};
    }
    for (uint64_t i = 0; i < count; ++i) {
      GgufType inner;
      uint64_t inner_count;
      if (!cursor.Read(&inner) || !cursor.Read(&inner_count)) {
        return truncated();
      }
      auto fault = SkipElements(cursor, inner, inner_count, depth + 1);
      if (fault) return fault;
    }
    return std::nullopt;
  }
  const int64_t bytes = ElementBytes(type);
  if (bytes == 0) return Fault{"a value type 0..12", GgufTypeName(type)};
  const uint8_t* first = cursor.current();
  if (!cursor.Skip(count, bytes)) return truncated();
  if (type == GgufType::kBool) {
    for (uint64_t i = 0; i < count; ++i) {
      if (first[i] > 1) return Fault{"a bool of 0 or 1", Concat({first[i]})};
    }
  }
  return std::nullopt;
}

std::optional<Fault> ParseValue(ByteCursor& cursor,
                                GgufMetadata::Value* value) {
  if (!cursor.Read(&value->type)) {
    return Fault{"a value type", "the end of the file"};
  }
  GgufType element = value->type;
  int depth = 0;
  if (value->type == GgufType::kArray) {
    if (!cursor.Read(&value->element_type) || !cursor.Read(&value->count)) {
      return Fault{"an array header", "the end of the file"};
    }
    element = value->element_type;
    depth = 1;
  }
  value->data = cursor.current();
  const int64_t start = cursor.position();
  auto fault = SkipElements(cursor, element, value->count, depth);
  value->bytes = cursor.position() - start;
  return fault;
}

}  // namespace

std::string GgufTypeName(GgufType type) {
  constexpr const char* kNames[] = {"u8",  "i8",  "u16",  "i16",    "u32",
                                    "i32", "f32", "bool", "string", "array",
                                    "u64", "i64", "f64"};
  const auto number = static_cast<uint32_t>(type);
  if (number < std::size(kNames)) return kNames[number];
  return Concat({"type ", number});
}

absl::StatusOr<GgufMetadata> GgufMetadata::Parse(const std::string& file,
                                                 uint64_t count,
                                                 ByteCursor& cursor) {
  // A pair takes 13 bytes at least: key length, type and one byte of value.
  constexpr uint64_t kSmallestPair = 13;
  if (count > static_cast<uint64_t>(cursor.remaining()) / kSmallestPair) {
    return BadField(file, "metadata count",
                    Concat({"at most ", cursor.remaining() / kSmallestPair}),
                    count);
  }
  GgufMetadata metadata;
  metadata.file_ = file;
  for (uint64_t i = 0; i < count; ++i) {
    std::string_view key;
    if (!cursor.ReadString(&key)) {
      return BadField(
          file, Concat({"metadata ", i}),
          Concat({"a key at byte ", cursor.position()}),
          Concat({cursor.remaining(), " bytes to the end of the file"}));
    }
    Value value;
    if (auto fault = ParseValue(cursor, &value)) {
      return BadField(file, Concat({"metadata ", Quoted(key)}), fault->expected,
                      fault->got);
    }
    if (!metadata.values_.emplace(key, value).second) {
      return BadField(file, Concat({"metadata ", Quoted(key)}), "one value",
                      "a duplicate key");
    }
  }
  return metadata;
}

absl::StatusOr<const GgufMetadata::Value*> GgufMetadata::Find(
    std::string_view key) const {
  const auto it = values_.find(key);
  if (it == values_.end()) {
    return absl::NotFoundError(Concat(
        {file_, ": metadata ", Quoted(key), ": expected a value, got none"}));
  }
  return &it->second;
}

absl::Status GgufMetadata::WrongType(std::string_view key,
                                     std::string_view wanted,
                                     const Value& value) const {
  std::string got = GgufTypeName(value.type);
  if (value.type == GgufType::kArray) {
    got = Concat({"an array of ", GgufTypeName(value.element_type)});
  }
  return BadField(file_, Concat({"metadata ", Quoted(key)}), wanted, got);
}

absl::StatusOr<const GgufMetadata::Value*> GgufMetadata::FindArray(
    std::string_view key, bool (*is_wanted)(GgufType),
    std::string_view wanted) const {
  auto value = Find(key);
  if (!value.ok()) return value;
  if ((*value)->type != GgufType::kArray ||
      !is_wanted((*value)->element_type)) {
    return WrongType(key, wanted, **value);
  }
  return value;
}

absl::StatusOr<int64_t> GgufMetadata::GetInt(std::string_view key) const {
  auto value = Find(key);
  if (!value.ok()) return value.status();
  if (!IsInt((*value)->type)) return WrongType(key, "an integer", **value);
  const auto number = ToInt((*value)->type, (*value)->data);
  if (!number) {
    return BadField(file_, Concat({"metadata ", Quoted(key)}),
                    "an integer below 2^63", "a larger one");
  }
  return *number;
}

absl::StatusOr<double> GgufMetadata::GetFloat(std::string_view key) const {
  auto value = Find(key);
  if (!value.ok()) return value.status();
  if (!IsNumber((*value)->type)) return WrongType(key, "a number", **value);
  return ToDouble((*value)->type, (*value)->data);
}

absl::StatusOr<bool> GgufMetadata::GetBool(std::string_view key) const {
  auto value = Find(key);
  if (!value.ok()) return value.status();
  if ((*value)->type != GgufType::kBool) {
    return WrongType(key, "a bool", **value);
  }
  return *(*value)->data != 0;
}

absl::StatusOr<std::string_view> GgufMetadata::GetString(
    std::string_view key) const {
  auto value = Find(key);
  if (!value.ok()) return value.status();
  if ((*value)->type != GgufType::kString) {
    return WrongType(key, "a string", **value);
  }
  constexpr int64_t kLengthBytes = 8;
  return std::string_view(
      reinterpret_cast<const char*>((*value)->data) + kLengthBytes,
      static_cast<size_t>((*value)->bytes - kLengthBytes));
}

absl::StatusOr<std::vector<int64_t>> GgufMetadata::GetInts(
    std::string_view key) const {
  auto value = FindArray(key, IsInt, "an array of integers");
  if (!value.ok()) return value.status();
  const GgufType type = (*value)->element_type;
  std::vector<int64_t> numbers((*value)->count);
  for (size_t i = 0; i < numbers.size(); ++i) {
    const auto number = ToInt(type, (*value)->data + i * ElementBytes(type));
    if (!number) {
      return BadField(file_, Concat({"metadata ", Quoted(key)}),
                      "integers below 2^63", Concat({"a larger one at ", i}));
    }
    numbers[i] = *number;
  }
  return numbers;
}

absl::StatusOr<std::vector<float>> GgufMetadata::GetFloats(
    std::string_view key) const {
  auto value = FindArray(key, IsNumber, "an array of numbers");
  if (!value.ok()) return value.status();
  const GgufType type = (*value)->element_type;
  std::vector<float> numbers((*value)->count);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(
        ToDouble(type, (*value)->data + i * ElementBytes(type)));
  }
  return numbers;
}

absl::StatusOr<std::vector<std::string_view>> GgufMetadata::GetStrings(
    std::string_view key) const {
  auto value = FindArray(key, IsString, "an array of strings");
  if (!value.ok()) return value.status();
  ByteCursor cursor((*value)->data, (*value)->bytes);
  std::vector<std::string_view> texts((*value)->count);
  for (std::string_view& text : texts) {
    if (!cursor.ReadString(&text)) {
      return WrongType(key, "strings within the file", **value);
    }
  }
  return texts;
}

absl::StatusOr<int64_t> GgufMetadata::GetInt(std::string_view key,
                                             int64_t absent) const {
  return Contains(key) ? GetInt(key) : absent;
}

absl::StatusOr<double> GgufMetadata::GetFloat(std::string_view key,
                                              double absent) const {
  return Contains(key) ? GetFloat(key) : absent;
}

absl::StatusOr<bool> GgufMetadata::GetBool(std::string_view key,
                                           bool absent) const {
  return Contains(key) ? GetBool(key) : absent;
}

absl::StatusOr<std::string_view> GgufMetadata::GetString(
    std::string_view key, std::string_view absent) const {
  return Contains(key) ? GetString(key) : absent;
}

}  // namespace shoal
