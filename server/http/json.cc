#include "server/http/json.h"

#include <cmath>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace shoal {
namespace {

constexpr size_t kMaxDepth = 64;
// Finding a member looks at them all.
constexpr size_t kMaxMembers = 4096;

// Builds the value from parse events, so that depth and duplicate keys are
// judged before anything recursive sees them.
class BoundedBuilder : public nlohmann::json_sax<Json> {
 public:
  const std::string& error() const { return error_; }
  Json Take() { return std::move(root_); }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override {
    return Add(value);
  }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Refuse("binary value"); }
  bool start_object(size_t) override {
    keys_.emplace_back();
    return Open(Json::object());
  }
  bool end_object() override {
    keys_.pop_back();
    open_.pop_back();
    return true;
  }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool key(string_t& value) override {
    if (!keys_.back().insert(value).second) {
      return Refuse(absl::StrCat("the key \"", PrintableText(value, 60),
                                 "\" comes twice in one object"));
    }
    if (keys_.back().size() > kMaxMembers) {
      return Refuse(
          absl::StrCat("an object has more than ", kMaxMembers, " members"));
    }
    key_ = std::move(value);
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Refuse(absl::StrCat("not valid JSON at byte ", position));
  }

 private:
  bool Refuse(std::string why) {
    error_ = std::move(why);
    return false;
  }
  bool Open(Json value) {
    if (open_.size() >= kMaxDepth) {
      return Refuse(absl::StrCat("nested deeper than ", kMaxDepth));
    }
    Json* added = Place(std::move(value));
    open_.push_back(added);
    return true;
  }
  bool Add(Json value) {
    Place(std::move(value));
    return true;
  }
  // Pointers in open_ stay good: only the innermost container grows.
  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Json& slot = parent[key_];
    slot = std::move(value);
    return &slot;
  }

  Json root_;
  std::vector<Json*> open_;
  std::vector<std::set<std::string>> keys_;
  std::string key_;
  std::string error_;
};

std::string Range(double low, double high) {
  return absl::StrCat("must be between ", low, " and ", high);
}

}  // namespace

absl::Status ParamError(std::string_view param, std::string_view message,
                        std::string_view code) {
  return WithDetail(absl::InvalidArgumentError(std::string(message)), param,
                    code);
}

absl::StatusOr<Json> ParseJsonObject(std::string_view text) {
  BoundedBuilder builder;
  if (!Json::sax_parse(text, &builder)) {
    return ParamError(
        "", absl::StrCat("The request body is refused: ", builder.error()),
        "invalid_json");
  }
  Json json = builder.Take();
  if (!json.is_object()) {
    return ParamError("", "The request body must be a JSON object",
                      "invalid_json");
  }
  return json;
}

std::string DumpJson(const Json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

const Json* JsonFields::Get(const char* name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void JsonFields::Fail(const std::string& name, const std::string& message,
                      std::string_view code) {
  if (!status_.ok()) return;
  const std::string param = path_ + name;
  status_ = ParamError(param, absl::StrCat(param, " ", message), code);
}

std::optional<int64_t> JsonFields::Int(const char* name, int64_t low,
                                       int64_t high) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  int64_t result = 0;
  bool in_range = true;
  if (value->is_number_unsigned()) {
    const auto number = value->get<uint64_t>();
    in_range =
        number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    result = static_cast<int64_t>(number);
  } else if (value->is_number_integer()) {
    result = value->get<int64_t>();
  } else if (value->is_number_float()) {
    const double number = value->get<double>();
    if (std::nearbyint(number) != number) {
      Fail(name, "must be an integer", "invalid_type");
      return std::nullopt;
    }
    in_range = std::abs(number) <= 9e15;  // exact in a double
    if (in_range) result = static_cast<int64_t>(number);
  } else {
    Fail(name, "must be an integer", "invalid_type");
    return std::nullopt;
  }
  if (!in_range || result < low || result > high) {
    Fail(name, absl::StrCat("must be between ", low, " and ", high));
    return std::nullopt;
  }
  return result;
}

std::optional<float> JsonFields::Number(const char* name, double low,
                                        double high) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    Fail(name, "must be a number", "invalid_type");
    return std::nullopt;
  }
  const double number = value->get<double>();
  if (!(number >= low && number <= high) ||
      std::abs(number) > std::numeric_limits<float>::max()) {
    Fail(name, Range(low, high));
    return std::nullopt;
  }
  return static_cast<float>(number);
}

std::optional<bool> JsonFields::Bool(const char* name) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    Fail(name, "must be true or false", "invalid_type");
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<std::string> JsonFields::String(const char* name) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    Fail(name, "must be a string", "invalid_type");
    return std::nullopt;
  }
  return value->get<std::string>();
}

std::optional<std::vector<int32_t>> JsonFields::TokenIds(const char* name,
                                                         size_t most) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  auto ids = ReadTokenIds(*value);
  if (!ids) {
    Fail(name, "must be an array of token ids", "invalid_type");
    return std::nullopt;
  }
  if (ids->size() > most) {
    Fail(name, absl::StrCat("must hold at most ", most, " token ids"));
    return std::nullopt;
  }
  return ids;
}

std::optional<std::vector<int32_t>> ReadTokenIds(const Json& array) {
  if (!array.is_array()) return std::nullopt;
  std::vector<int32_t> ids;
  ids.reserve(array.size());
  for (const Json& element : array) {
    if (!element.is_number_integer()) return std::nullopt;
    const auto id = element.get<int64_t>();
    if (element.is_number_unsigned() && id < 0) return std::nullopt;
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
      return std::nullopt;
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

}  // namespace shoal
