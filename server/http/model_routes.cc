#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/http/api_error.h"
#include "server/http/json.h"
#include "server/http/openai_request.h"
#include "server/http/routes.h"

namespace shoal {
namespace {

constexpr size_t kMaxTokens = 1 << 20;

HttpResponse JsonResponse(const Json& body) {
  HttpResponse response;
  response.content_type = "application/json";
  response.body = DumpJson(body);
  return response;
}

// The folder the model was read from stays untold.
Json ModelJson(const ModelInfo& info, const std::string& name) {
  return {{"id", name},
          {"object", "model"},
          {"created", absl::ToUnixSeconds(info.loaded_at)},
          {"owned_by", "shoal"},
          {"root", info.served_names[0]},
          {"parent", nullptr},
          {"max_model_len", info.max_model_len}};
}

HttpResponse ListModels(const ModelInfo& info) {
  Json data = Json::array();
  for (const std::string& name : info.served_names) {
    data.push_back(ModelJson(info, name));
  }
  return JsonResponse({{"object", "list"}, {"data", std::move(data)}});
}

HttpResponse GetModel(const ModelInfo& info, const std::string& name) {
  const auto& names = info.served_names;
  if (std::find(names.begin(), names.end(), name) != names.end()) {
    return JsonResponse(ModelJson(info, name));
  }
  return ApiError(
      WithDetail(absl::NotFoundError(absl::StrCat(
                     "The model ", PrintableText(name), " is not served")),
                 "model", "model_not_found"));
}

// Tokens of "prompt", or of the rendered "messages".
absl::StatusOr<std::vector<int32_t>> TokensOf(JsonFields& fields,
                                              GenerationService& service) {
  const bool chat = fields.Get("messages") != nullptr;
  const bool special = fields.Bool("add_special_tokens").value_or(!chat);
  std::string text;
  ChatPrompt prompt;
  if (chat) {
    prompt = ReadChatPrompt(fields);
  } else if (auto given = fields.String("prompt")) {
    text = *std::move(given);
  } else {
    fields.Fail("prompt", "is required", "missing");
  }
  if (!fields.ok()) return fields.status();
  if (chat) return service.EncodeChat(prompt);
  return service.text().Encode(text, special);
}

HttpResponse Tokenize(const HttpRequest& request, GenerationService& service) {
  const absl::StatusOr<Json> body = ParseJsonObject(request.body);
  if (!body.ok()) return ApiError(body.status());
  JsonFields fields(*body);
  const std::string model = fields.String("model").value_or("");
  if (absl::Status known = service.CheckModel(model); !known.ok()) {
    return ApiError(known);
  }
  const bool strings = fields.Bool("return_token_strs").value_or(false);
  const auto tokens = TokensOf(fields, service);
  if (!tokens.ok()) return ApiError(tokens.status());
  Json answer = {{"count", tokens->size()},
                 {"max_model_len", service.model_info().max_model_len},
                 {"tokens", *tokens}};
  answer["token_strs"] = nullptr;
  if (strings) {
    Json list = Json::array();
    for (int32_t token : *tokens) {
      list.push_back(std::string(service.text().TokenBytes(token)));
    }
    answer["token_strs"] = std::move(list);
  }
  return JsonResponse(answer);
}

HttpResponse Detokenize(const HttpRequest& request,
                        GenerationService& service) {
  const absl::StatusOr<Json> body = ParseJsonObject(request.body);
  if (!body.ok()) return ApiError(body.status());
  JsonFields fields(*body);
  const std::string model = fields.String("model").value_or("");
  const auto tokens = fields.TokenIds("tokens", kMaxTokens);
  if (fields.ok() && !tokens) fields.Fail("tokens", "is required", "missing");
  const int32_t vocab_size = service.text().vocab_size();
  for (int32_t token : tokens.value_or(std::vector<int32_t>())) {
    if (token >= vocab_size) {
      fields.Fail("tokens",
                  absl::StrCat("must hold token ids below ", vocab_size));
    }
  }
  if (!fields.ok()) return ApiError(fields.status());
  if (absl::Status known = service.CheckModel(model); !known.ok()) {
    return ApiError(known);
  }
  return JsonResponse(
      {{"prompt", service.text().Decode(*tokens,
                                        /*skip_special_tokens=*/false)}});
}

}  // namespace

std::vector<Route> ModelRoutes(GenerationService& service) {
  const HttpHandler list = [&service](const HttpRequest&) {
    return ListModels(service.model_info());
  };
  const HttpHandler get = [&service](const HttpRequest& request) {
    return GetModel(service.model_info(), request.path_tail);
  };
  const HttpHandler tokenize = [&service](const HttpRequest& request) {
    return Tokenize(request, service);
  };
  const HttpHandler detokenize = [&service](const HttpRequest& request) {
    return Detokenize(request, service);
  };
  return {{"GET", "/v1/models", Access::kKey, RunOn::kIo, list},
          {"GET", "/v1/models/*", Access::kKey, RunOn::kIo, get},
          {"POST", "/tokenize", Access::kKey, RunOn::kWorker, tokenize},
          {"POST", "/detokenize", Access::kKey, RunOn::kWorker, detokenize}};
}

}  // namespace shoal
