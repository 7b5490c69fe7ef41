#include "server/http/openai_request.h"

#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxN = 128;
constexpr int64_t kMaxLogprobs = 20;
constexpr size_t kMaxStops = 64;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxListedTokens = 65536;
constexpr size_t kMaxLogitBias = 1024;
constexpr size_t kMaxPrompts = 128;
constexpr size_t kMaxSaltBytes = 256;
constexpr int64_t kDefaultCompletionTokens = 16;  // as OpenAI's

// Members that would change the answer and are not served. `harmless` is the
// value they may have all the same.
void RefuseUnsupported(JsonFields& fields) {
  struct Member {
    const char* name;
    Json harmless;
  };
  static const std::vector<Member> kMembers = {
      {"echo", false},
      {"suffix", ""},
      {"use_beam_search", false},
      {"best_of", 1},
      {"continue_final_message", false},
      {"chat_template", nullptr},
      {"documents", Json::array()},
      {"functions", Json::array()},
      {"function_call", "none"},
      {"audio", nullptr},
      {"modalities", Json::array({"text"})},
      {"response_format", Json::object({{"type", "text"}})},
      {"structured_outputs", nullptr},
      {"guided_json", nullptr},
      {"guided_regex", nullptr},
      {"guided_choice", nullptr},
      {"guided_grammar", nullptr},
      {"bad_words", Json::array()},
      {"truncate_prompt_tokens", nullptr},
  };
  for (const Member& member : kMembers) {
    const Json* value = fields.Get(member.name);
    if (value == nullptr || *value == member.harmless) continue;
    fields.Fail(member.name, "is not supported", "unsupported_parameter");
  }
}

void ReadStop(JsonFields& fields, std::vector<std::string>& stop) {
  const Json* value = fields.Get("stop");
  if (value == nullptr) return;
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  bool good = list.is_array() && list.size() <= kMaxStops;
  for (const Json& text : list) {
    good = good && text.is_string() &&
           !text.get_ref<const std::string&>().empty() &&
           text.get_ref<const std::string&>().size() <= kMaxStopBytes;
    if (good) stop.push_back(text.get<std::string>());
  }
  if (!good) {
    fields.Fail("stop", absl::StrCat("must be a string or an array of at most ",
                                     kMaxStops, " strings of 1 to ",
                                     kMaxStopBytes, " bytes"));
  }
}

void ReadLogitBias(JsonFields& fields, SamplingParams& sampling) {
  const Json* value = fields.Get("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object() || value->size() > kMaxLogitBias) {
    fields.Fail("logit_bias", absl::StrCat("must be an object of at most ",
                                           kMaxLogitBias, " token ids"));
    return;
  }
  for (const auto& [key, bias] : value->items()) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0) {
      fields.Fail("logit_bias", "must have token ids as its keys");
      return;
    }
    const double number = bias.is_number() ? bias.get<double>() : 1000;
    if (!(number >= -100 && number <= 100)) {
      fields.Fail("logit_bias", "must hold numbers between -100 and 100");
      return;
    }
    sampling.logit_bias.emplace_back(id, static_cast<float>(number));
  }
}

SamplingParams ReadSampling(JsonFields& fields) {
  SamplingParams sampling;
  const auto positive = [&](const char* name, float most, float fallback) {
    const auto value = fields.Number(name, 0, most);
    if (value && *value <= 0) fields.Fail(name, "must be greater than 0");
    return value.value_or(fallback);
  };
  sampling.temperature = fields.Number("temperature", 0, 100).value_or(1);
  sampling.top_p = positive("top_p", 1, 1);
  sampling.min_p = fields.Number("min_p", 0, 1).value_or(0);
  // Both 0 and -1 mean "off" to clients.
  const int64_t top_k = fields.Int("top_k", -1, kMaxInt32).value_or(0);
  sampling.top_k = static_cast<int32_t>(top_k < 0 ? 0 : top_k);
  sampling.repetition_penalty = positive("repetition_penalty", 100, 1);
  sampling.presence_penalty =
      fields.Number("presence_penalty", -2, 2).value_or(0);
  sampling.frequency_penalty =
      fields.Number("frequency_penalty", -2, 2).value_or(0);
  ReadLogitBias(fields, sampling);
  if (auto ids = fields.TokenIds("allowed_token_ids", kMaxListedTokens)) {
    sampling.allowed_token_ids = *std::move(ids);
  }
  if (auto ids = fields.TokenIds("stop_token_ids", kMaxListedTokens)) {
    sampling.stop_token_ids = *std::move(ids);
  }
  const auto seed = fields.Int("seed", std::numeric_limits<int64_t>::min(),
                               std::numeric_limits<int64_t>::max());
  if (seed) sampling.seed = static_cast<uint64_t>(*seed);
  sampling.min_tokens =
      static_cast<int32_t>(fields.Int("min_tokens", 0, kMaxInt32).value_or(0));
  sampling.ignore_eos = fields.Bool("ignore_eos").value_or(false);
  sampling.prompt_logprobs = static_cast<int32_t>(
      fields.Int("prompt_logprobs", 0, kMaxLogprobs).value_or(-1));
  return sampling;
}

// All but the prompt, logprobs and max_tokens.
GenerationRequest ReadCommon(const HttpRequest& http, JsonFields& fields,
                             OpenAiRequest& result) {
  GenerationRequest request;
  request.request_id = http.request_id;
  request.tenant = http.tenant;
  request.model = fields.String("model").value_or("");
  request.sampling = ReadSampling(fields);
  ReadStop(fields, request.stop);
  request.include_stop_in_output =
      fields.Bool("include_stop_str_in_output").value_or(false);
  request.skip_special_tokens =
      fields.Bool("skip_special_tokens").value_or(true);
  request.n = fields.Int("n", 1, kMaxN).value_or(1);
  request.priority = static_cast<int32_t>(
      fields.Int("priority", std::numeric_limits<int32_t>::min(), kMaxInt32)
          .value_or(0));
  request.cache_salt = fields.String("cache_salt").value_or("");
  if (request.cache_salt.size() > kMaxSaltBytes) {
    fields.Fail("cache_salt",
                absl::StrCat("may have at most ", kMaxSaltBytes, " bytes"));
  }
  result.stream = fields.Bool("stream").value_or(false);
  if (const Json* options = fields.Get("stream_options")) {
    if (!options->is_object()) {
      fields.Fail("stream_options", "must be an object", "invalid_type");
    } else if (!result.stream) {
      fields.Fail("stream_options", "needs \"stream\": true");
    } else {
      JsonFields inner(*options, "stream_options.");
      result.include_usage = inner.Bool("include_usage").value_or(false);
      fields.Adopt(inner.status());
    }
  }
  if (result.stream && request.sampling.prompt_logprobs >= 0) {
    fields.Fail("prompt_logprobs", "cannot be streamed",
                "unsupported_parameter");
  }
  RefuseUnsupported(fields);
  return request;
}

// A string, an array of token ids, or an array of either.
std::vector<Prompt> ReadPrompts(JsonFields& fields) {
  const Json* value = fields.Get("prompt");
  if (value == nullptr) {
    fields.Fail("prompt", "is required", "missing");
    return {};
  }
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array() || value->empty()) {
    fields.Fail("prompt", "must be a string or an array that is not empty",
                "invalid_type");
    return {};
  }
  if (auto ids = ReadTokenIds(*value)) return {*std::move(ids)};
  std::vector<Prompt> prompts;
  for (const Json& element : *value) {
    auto ids = ReadTokenIds(element);
    if (ids) {
      prompts.push_back(*std::move(ids));
    } else if (element.is_string()) {
      prompts.push_back(element.get<std::string>());
    } else {
      fields.Fail("prompt", "must hold strings or token ids in [0, 2^31)",
                  "invalid_type");
      return {};
    }
  }
  if (prompts.size() > kMaxPrompts) {
    fields.Fail("prompt",
                absl::StrCat("may hold at most ", kMaxPrompts, " prompts"));
  }
  return prompts;
}

}  // namespace

absl::StatusOr<OpenAiRequest> ParseChatRequest(const HttpRequest& request) {
  const absl::StatusOr<Json> body = ParseJsonObject(request.body);
  if (!body.ok()) return body.status();
  JsonFields fields(*body);
  OpenAiRequest result;
  result.chat = true;
  GenerationRequest generation = ReadCommon(request, fields, result);
  generation.prompt = ReadChatPrompt(fields);
  const auto max_tokens = fields.Int("max_tokens", 1, kMaxInt32);
  generation.max_tokens = fields.Int("max_completion_tokens", 1, kMaxInt32);
  if (!generation.max_tokens) generation.max_tokens = max_tokens;
  const bool logprobs = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Int("top_logprobs", 0, kMaxLogprobs);
  if (logprobs) {
    generation.sampling.logprobs = static_cast<int32_t>(top.value_or(0));
  } else if (top.value_or(0) > 0) {
    fields.Fail("top_logprobs", "needs \"logprobs\": true");
  }
  if (!fields.ok()) return fields.status();
  result.generations.push_back(std::move(generation));
  return result;
}

absl::StatusOr<OpenAiRequest> ParseCompletionRequest(
    const HttpRequest& request) {
  const absl::StatusOr<Json> body = ParseJsonObject(request.body);
  if (!body.ok()) return body.status();
  JsonFields fields(*body);
  OpenAiRequest result;
  GenerationRequest common = ReadCommon(request, fields, result);
  common.max_tokens =
      fields.Int("max_tokens", 1, kMaxInt32).value_or(kDefaultCompletionTokens);
  common.sampling.logprobs = static_cast<int32_t>(
      fields.Int("logprobs", 0, kMaxLogprobs).value_or(-1));
  std::vector<Prompt> prompts = ReadPrompts(fields);
  if (fields.ok() && static_cast<int64_t>(prompts.size()) * common.n > kMaxN) {
    fields.Fail("n", absl::StrCat("times the prompts may be at most ", kMaxN));
  }
  if (!fields.ok()) return fields.status();
  for (size_t i = 0; i < prompts.size(); ++i) {
    GenerationRequest generation = common;
    generation.prompt = std::move(prompts[i]);
    if (prompts.size() > 1) absl::StrAppend(&generation.request_id, "-", i);
    result.generations.push_back(std::move(generation));
  }
  return result;
}

}  // namespace shoal
