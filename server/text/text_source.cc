#include "server/text/text_source.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "engine/loading/json_value.h"
#include "engine/loading/load_error.h"
#include "engine/loading/mapped_file.h"

namespace shoal {
namespace {

absl::Status SetTemplate(std::string_view file, std::string_view source,
                         TextSource& out) {
  out.has_chat_template = true;
  out.template_thinks = source.find("</think>") != source.npos;
  return TakeStatus(
      shoal_text_set_template(out.text.get(), ToShoalBytes(source),
                              ToShoalBytes(out.bos_token),
                              ToShoalBytes(out.eos_token)),
      file);
}

// The JSON object in `path`; empty when there is no such file.
absl::StatusOr<JsonValue> ReadOptionalObject(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return JsonValue(JsonValue::Object());
  }
  absl::StatusOr<JsonValue> json = ParseJsonFile(path);
  if (json.ok() && json->as_object() == nullptr) {
    return BadField(path, "document", "an object", json->Describe());
  }
  return json;
}

const JsonValue* Find(const JsonValue& object, std::string_view key) {
  const JsonValue::Object* fields = object.as_object();
  if (fields == nullptr) return nullptr;
  const auto field = fields->find(key);
  return field == fields->end() || field->second.is_null() ? nullptr
                                                           : &field->second;
}

bool FindTrue(const JsonValue& object, std::string_view key) {
  const JsonValue* value = Find(object, key);
  return value != nullptr && value->as_bool() != nullptr && *value->as_bool();
}

// A token's text: a string, or an object with "content".
std::string FindToken(const JsonValue& object, std::string_view key) {
  const JsonValue* value = Find(object, key);
  if (value != nullptr && value->as_object() != nullptr) {
    value = Find(*value, "content");
  }
  if (value == nullptr || value->as_string() == nullptr) return "";
  return *value->as_string();
}

// The template in tokenizer_config.json: a string, or a list of named ones of
// which "default" counts.
const std::string* FindTemplate(const JsonValue& config) {
  const JsonValue* value = Find(config, "chat_template");
  if (value == nullptr) return nullptr;
  if (value->as_array() == nullptr) return value->as_string();
  for (const JsonValue& entry : *value->as_array()) {
    if (FindToken(entry, "name") != "default") continue;
    const JsonValue* source = Find(entry, "template");
    return source == nullptr ? nullptr : source->as_string();
  }
  return nullptr;
}

std::vector<ShoalBytes> ToShoalBytesList(
    const std::vector<std::string_view>& texts) {
  std::vector<ShoalBytes> bytes;
  bytes.reserve(texts.size());
  for (std::string_view text : texts) bytes.push_back(ToShoalBytes(text));
  return bytes;
}

// A list that may be absent (then empty) but otherwise has `count` elements.
template <typename T>
absl::Status ReadList(std::string_view file, std::string_view key,
                      absl::StatusOr<std::vector<T>> list,
                      std::optional<size_t> count, std::vector<T>& out) {
  if (absl::IsNotFound(list.status())) return absl::OkStatus();
  if (!list.ok()) return list.status();
  if (count.has_value() && list->size() != *count) {
    return BadField(file, key, Concat({*count, " elements"}), list->size());
  }
  out = *std::move(list);
  return absl::OkStatus();
}

}  // namespace

absl::Status TakeStatus(ShoalTextStatus status, std::string_view file) {
  if (status.code == SHOAL_TEXT_OK) return absl::OkStatus();
  const std::string field = status.field;
  const std::string message = status.message;
  shoal_text_free_status(status);
  if (file.empty()) {
    return status.code == SHOAL_TEXT_INTERNAL
               ? absl::InternalError(message)
               : absl::InvalidArgumentError(message);
  }
  const absl::Status bad =
      BadField(file, field.empty() ? "document" : field,
               "a well-formed tokenizer or template", Quoted(message));
  return status.code == SHOAL_TEXT_UNIMPLEMENTED
             ? absl::UnimplementedError(bad.message())
             : bad;
}

absl::StatusOr<TextSource> ReadFolderText(const std::string& folder) {
  TextSource out;
  const std::string path = folder + "/tokenizer.json";
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  ShoalText* text = nullptr;
  const ShoalBytes bytes = ToShoalBytes((*file)->contents());
  if (absl::Status status =
          TakeStatus(shoal_text_from_json(bytes, &text), path);
      !status.ok()) {
    return status;
  }
  out.text.reset(text);

  const std::string config_path = folder + "/tokenizer_config.json";
  absl::StatusOr<JsonValue> config = ReadOptionalObject(config_path);
  if (!config.ok()) return config.status();
  out.bos_token = FindToken(*config, "bos_token");
  out.eos_token = FindToken(*config, "eos_token");
  out.add_bos = FindTrue(*config, "add_bos_token");
  out.add_eos = FindTrue(*config, "add_eos_token");

  absl::StatusOr<JsonValue> generation =
      ReadOptionalObject(folder + "/generation_config.json");
  if (!generation.ok()) return generation.status();
  if (const JsonValue* eos = Find(*generation, "eos_token_id")) {
    if (eos->as_int() != nullptr) out.end_token_ids.push_back(*eos->as_int());
    if (eos->as_array() != nullptr) {
      for (const JsonValue& id : *eos->as_array()) {
        if (id.as_int() != nullptr) out.end_token_ids.push_back(*id.as_int());
      }
    }
  }

  const std::string template_path = folder + "/chat_template.jinja";
  absl::StatusOr<std::unique_ptr<MappedFile>> jinja =
      MappedFile::Open(template_path);
  absl::Status status;
  if (jinja.ok()) {
    status = SetTemplate(template_path, (*jinja)->contents(), out);
  } else if (!absl::IsNotFound(jinja.status())) {
    status = jinja.status();
  } else if (const std::string* source = FindTemplate(*config)) {
    status = SetTemplate(config_path, *source, out);
  }
  if (!status.ok()) return status;
  return out;
}

absl::StatusOr<TextSource> ReadGgufText(const GgufFile& gguf) {
  const GgufMetadata& metadata = gguf.metadata();
  const std::string& file = gguf.path();
  absl::Status status;
  // Each reads a value; the first thing wrong is kept in `status`.
  const auto take = [&status]<typename T>(absl::StatusOr<T> value) {
    if (!value.ok()) status.Update(value.status());
    return value.ok() ? *std::move(value) : T();
  };
  const std::string_view model =
      take(metadata.GetString("tokenizer.ggml.model"));
  const std::string_view pre =
      take(metadata.GetString("tokenizer.ggml.pre", "default"));
  const std::vector<std::string_view> tokens =
      take(metadata.GetStrings("tokenizer.ggml.tokens"));
  const bool is_sentence_piece = model == "llama";
  const auto id = [&](std::string_view key) {
    return take(metadata.GetInt(Concat({"tokenizer.ggml.", key}), -1));
  };
  const auto flag = [&](std::string_view key, bool absent) {
    const std::string name = Concat({"tokenizer.ggml.", key});
    return take(metadata.GetBool(name, absent));
  };
  const int64_t bos = id("bos_token_id");
  const int64_t eos = id("eos_token_id");
  const int64_t unknown = id("unknown_token_id");
  TextSource out;
  out.add_bos = flag("add_bos_token", is_sentence_piece);
  out.add_eos = flag("add_eos_token", false);
  const bool add_space_prefix = flag("add_space_prefix", is_sentence_piece);
  out.end_token_ids = {eos, id("eot_token_id")};

  std::vector<std::string_view> merges;
  std::vector<int64_t> wide_types;
  std::vector<float> scores;
  constexpr std::string_view kMerges = "tokenizer.ggml.merges";
  constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
  constexpr std::string_view kScores = "tokenizer.ggml.scores";
  status.Update(ReadList(file, kMerges, metadata.GetStrings(kMerges),
                         std::nullopt, merges));
  status.Update(ReadList(file, kTypes, metadata.GetInts(kTypes), tokens.size(),
                         wide_types));
  status.Update(ReadList(file, kScores, metadata.GetFloats(kScores),
                         tokens.size(), scores));
  const std::string_view chat_template =
      take(metadata.GetString("tokenizer.chat_template", ""));
  if (absl::IsNotFound(status)) {
    return BadField(file, "tokenizer.ggml", "a tokenizer",
                    std::string(status.message()));
  }
  if (!status.ok()) return status;

  const std::vector<int32_t> types(wide_types.begin(), wide_types.end());
  const std::vector<ShoalBytes> token_bytes = ToShoalBytesList(tokens);
  const std::vector<ShoalBytes> merge_bytes = ToShoalBytesList(merges);
  const ShoalGgufVocabulary vocabulary = {
      .model = ToShoalBytes(model),
      .pre = ToShoalBytes(pre),
      .tokens = token_bytes.data(),
      .token_count = token_bytes.size(),
      .merges = merge_bytes.data(),
      .merge_count = merge_bytes.size(),
      .types = types.empty() ? nullptr : types.data(),
      .scores = scores.empty() ? nullptr : scores.data(),
      .unknown_id = unknown,
      .add_space_prefix = add_space_prefix};
  ShoalText* text = nullptr;
  status = TakeStatus(shoal_text_from_gguf(&vocabulary, &text), file);
  if (!status.ok()) return status;
  out.text.reset(text);

  const auto name = [&tokens](int64_t id) {
    const bool is_token = id >= 0 && id < std::ssize(tokens);
    return std::string(is_token ? tokens[id] : "");
  };
  out.bos_token = name(bos);
  out.eos_token = name(eos);
  if (!chat_template.empty()) status = SetTemplate(file, chat_template, out);
  if (!status.ok()) return status;
  return out;
}

}  // namespace shoal
