#include "engine/loading/safetensors_header.h"

#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "engine/loading/load_error.h"

namespace shoal {
namespace {

constexpr DType kDTypes[] = {
    DType::kF64,    DType::kF32,    DType::kF16,   DType::kBF16, DType::kI64,
    DType::kI32,    DType::kI16,    DType::kI8,    DType::kU8,   DType::kBool,
    DType::kF8E4M3, DType::kF8E5M2, DType::kF8E8M0};

constexpr size_t kMostTensors = 1 << 20;

// Takes parser events of exactly the header's form.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  std::vector<SafetensorsEntry>& entries() { return entries_; }
  const absl::Status& status() const { return status_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool number_integer(number_integer_t value) override {
    return Unexpected(Concat({value}));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(Quoted(text));
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      ConstTensorView& view = entries_.back().view;
      if (view.rank == kMaxRank) return Unexpected("more than 4 dimensions");
      if (value > static_cast<uint64_t>(INT64_MAX)) {
        return Unexpected(Concat({value}));
      }
      view.shape[view.rank++] = static_cast<int64_t>(value);
      return true;
    }
    if (place_ == Place::kOffsets && num_offsets_ < 2) {
      (num_offsets_++ == 0 ? entries_.back().begin : entries_.back().end) =
          value;
      return true;
    }
    return Unexpected(Concat({value}));
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != Field::kDType) {
      return Unexpected(Quoted(value));
    }
    for (DType dtype : kDTypes) {
      if (DTypeName(dtype) != value) continue;
      entries_.back().view.dtype = dtype;
      has_dtype_ = true;
      return true;
    }
    return Fail(absl::UnimplementedError(
        Concat({file_, ": ", Where(),
                ": expected a supported element type, got ", Quoted(value)})));
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kRoot;
      return true;
    }
    if (place_ != Place::kRoot) return Unexpected("an object");
    place_ = in_metadata_ ? Place::kMetadata : Place::kTensor;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kTensor && field_ == Field::kShape) {
      place_ = Place::kShape;
      has_shape_ = true;
      return true;
    }
    if (place_ == Place::kTensor && field_ == Field::kOffsets) {
      place_ = Place::kOffsets;
      return true;
    }
    return Unexpected("an array");
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && num_offsets_ != 2) {
      return Unexpected(Concat({num_offsets_, " numbers"}));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor &&
        (!has_dtype_ || !has_shape_ || num_offsets_ != 2)) {
      return Fail(BadField(file_, Where(), "dtype, shape and data_offsets",
                           "an entry without all of them"));
    }
    place_ = place_ == Place::kRoot ? Place::kEnd : Place::kRoot;
    return true;
  }

  bool key(string_t& name) override {
    if (place_ == Place::kRoot) return StartEntry(name);
    if (place_ == Place::kMetadata) return true;
    Field field;
    if (name == "dtype") {
      field = Field::kDType;
    } else if (name == "shape") {
      field = Field::kShape;
    } else if (name == "data_offsets") {
      field = Field::kOffsets;
    } else {
      return Fail(BadField(file_, Where(), "dtype, shape and data_offsets",
                           Concat({"key ", Quoted(name)})));
    }
    const bool seen = (field == Field::kDType && has_dtype_) ||
                      (field == Field::kShape && has_shape_) ||
                      (field == Field::kOffsets && num_offsets_ != 0);
    if (seen) {
      return Fail(BadField(file_, Concat({Where(), " ", name}), "one value",
                           "a duplicate key"));
    }
    field_ = field;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(BadField(file_, "header", "valid JSON",
                         Concat({"a syntax error at byte ", position})));
  }

 private:
  enum class Place {
    kStart,
    kRoot,      // in {"name": ...}
    kTensor,    // in a tensor's object
    kShape,     // in its shape
    kOffsets,   // in its data_offsets
    kMetadata,  // in "__metadata__"
    kEnd,
  };
  enum class Field { kNone, kDType, kShape, kOffsets };

  bool Fail(absl::Status status) {
    status_ = std::move(status);
    return false;
  }

  bool StartEntry(string_t& name) {
    if (!names_.insert(name).second) {
      return Fail(BadField(file_, Concat({"tensor ", Quoted(name)}),
                           "one of that name", "a duplicate key"));
    }
    in_metadata_ = name == "__metadata__";
    if (in_metadata_) return true;
    if (entries_.size() == kMostTensors) {
      return Fail(BadField(file_, "header",
                           Concat({"at most ", kMostTensors, " tensors"}),
                           "more"));
    }
    entries_.emplace_back();
    entries_.back().name = std::move(name);
    field_ = Field::kNone;
    has_dtype_ = has_shape_ = false;
    num_offsets_ = 0;
    return true;
  }

  // Where the parser stands, for messages.
  std::string Where() const {
    if (place_ == Place::kMetadata || in_metadata_) return "__metadata__";
    if (entries_.empty()) return "header";
    return Concat({"tensor ", Quoted(entries_.back().name)});
  }

  bool Unexpected(std::string got) {
    std::string field = Where();
    std::string_view expected = "an object";
    if (place_ == Place::kShape) {
      field += " shape";
      expected = "up to 4 non-negative integers";
    } else if (place_ == Place::kOffsets) {
      field += " data_offsets";
      expected = "two non-negative integers";
    } else if (place_ == Place::kMetadata) {
      expected = "text values";
    } else if (place_ == Place::kTensor) {
      expected = "a dtype, a shape and data_offsets";
    }
    return Fail(BadField(file_, field, expected, std::move(got)));
  }

  const std::string& file_;
  absl::Status status_;
  std::vector<SafetensorsEntry> entries_;
  std::set<std::string, std::less<>> names_;
  Place place_ = Place::kStart;
  Field field_ = Field::kNone;
  bool in_metadata_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  int num_offsets_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(
    const std::string& file, std::string_view json) {
  HeaderReader reader(file);
  try {
    if (nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) {
      return std::move(reader.entries());
    }
  } catch (const std::exception&) {
    return BadField(file, "header", "valid JSON", "an unreadable document");
  }
  if (!reader.status().ok()) return reader.status();
  return BadField(file, "header", "valid JSON", "an unreadable document");
}

}  // namespace shoal
