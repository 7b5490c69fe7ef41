#include "server/rpc/convert.h"

#include <string>
#include <utility>
#include <vector>

#include "server/errors.h"

namespace shoal {
namespace {

void SetSampling(const v1::Sampling& proto, SamplingParams* params) {
  if (proto.has_temperature()) params->temperature = proto.temperature();
  if (proto.has_top_k()) params->top_k = proto.top_k();
  if (proto.has_top_p()) params->top_p = proto.top_p();
  if (proto.has_min_p()) params->min_p = proto.min_p();
  if (proto.has_repetition_penalty()) {
    params->repetition_penalty = proto.repetition_penalty();
  }
  if (proto.has_presence_penalty()) {
    params->presence_penalty = proto.presence_penalty();
  }
  if (proto.has_frequency_penalty()) {
    params->frequency_penalty = proto.frequency_penalty();
  }
  for (const auto& [token, bias] : proto.logit_bias()) {
    params->logit_bias.emplace_back(token, bias);
  }
  if (proto.has_seed()) params->seed = proto.seed();
}

void SetCommon(const std::string& model, const v1::Sampling& sampling,
               const v1::Stopping& stopping, const v1::Options& options,
               GenerationRequest* request) {
  request->model = model;
  SamplingParams& params = request->sampling;
  SetSampling(sampling, &params);
  if (stopping.has_max_tokens()) request->max_tokens = stopping.max_tokens();
  params.min_tokens = stopping.min_tokens();
  request->stop.assign(stopping.stop().begin(), stopping.stop().end());
  params.stop_token_ids.assign(stopping.stop_token_ids().begin(),
                               stopping.stop_token_ids().end());
  params.ignore_eos = stopping.ignore_eos();
  request->include_stop_in_output = stopping.include_stop_in_output();
  if (options.has_n()) request->n = options.n();
  if (options.has_logprobs()) params.logprobs = options.logprobs();
  if (options.has_prompt_logprobs()) {
    params.prompt_logprobs = options.prompt_logprobs();
  }
  request->skip_special_tokens = !options.keep_special_tokens();
  request->priority = options.priority();
  request->cache_salt = options.cache_salt();
}

void SetLogprob(const TextLogprob& logprob, v1::TokenLogprob* proto) {
  proto->set_token_id(logprob.token);
  proto->set_token(logprob.bytes);
  proto->set_logprob(logprob.logprob);
  proto->set_rank(logprob.rank);
}

template <typename Repeated>
void SetLogprobs(const std::vector<PositionTextLogprobs>& logprobs,
                 Repeated* proto) {
  for (const PositionTextLogprobs& position : logprobs) {
    v1::PositionLogprobs* out = proto->Add();
    SetLogprob(position.chosen, out->mutable_chosen());
    for (const TextLogprob& top : position.top) SetLogprob(top, out->add_top());
  }
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    default:  // deadline and error end the call with a status
      return v1::FINISH_REASON_CANCELLED;
  }
}

template <typename Response>
void SetRest(const GenerationDelta& delta, bool token_ids, Response* proto) {
  proto->set_index(delta.index);
  if (token_ids) {
    proto->mutable_token_ids()->Add(delta.token_ids.begin(),
                                    delta.token_ids.end());
  }
  SetLogprobs(delta.logprobs, proto->mutable_logprobs());
  SetLogprobs(delta.prompt_logprobs, proto->mutable_prompt_logprobs());
  if (!delta.finish_reason.has_value()) return;
  v1::Finish* finish = proto->mutable_finish();
  finish->set_reason(ToProto(*delta.finish_reason));
  finish->set_stop(delta.matched_stop);
  if (delta.matched_stop_token >= 0) {
    finish->set_stop_token_id(delta.matched_stop_token);
  }
  finish->mutable_usage()->set_prompt_tokens(delta.usage.prompt_tokens);
  finish->mutable_usage()->set_cached_tokens(delta.usage.cached_tokens);
  finish->mutable_usage()->set_completion_tokens(delta.usage.completion_tokens);
}

}  // namespace

absl::StatusOr<GenerationRequest> FromProto(const v1::GenerateRequest& proto) {
  GenerationRequest request;
  SetCommon(proto.model(), proto.sampling(), proto.stopping(), proto.options(),
            &request);
  if (proto.has_text()) {
    request.prompt = proto.text();
  } else if (proto.has_token_ids()) {
    request.prompt = std::vector<int32_t>(proto.token_ids().ids().begin(),
                                          proto.token_ids().ids().end());
  } else {
    return WithDetail(
        absl::InvalidArgumentError("prompt: expected text or token_ids"),
        "prompt", "invalid_value");
  }
  return request;
}

ChatPrompt ChatFromProto(const v1::ChatRequest& proto) {
  ChatPrompt chat;
  for (const v1::Message& message : proto.messages()) {
    ChatMessage& out = chat.messages.emplace_back();
    out.role = message.role();
    out.content = message.content();
    out.name = message.name();
    out.reasoning_content = message.reasoning_content();
    out.tool_call_id = message.tool_call_id();
    for (const v1::ToolCall& call : message.tool_calls()) {
      out.tool_calls.push_back({call.id(), call.name(), call.arguments()});
    }
  }
  chat.tools_json = proto.tools_json();
  chat.template_kwargs_json = proto.template_kwargs_json();
  return chat;
}

GenerationRequest FromProto(const v1::ChatRequest& proto) {
  GenerationRequest request;
  SetCommon(proto.model(), proto.sampling(), proto.stopping(), proto.options(),
            &request);
  request.prompt = ChatFromProto(proto);
  return request;
}

v1::Start MakeStart(const Generation& generation, const ModelInfo& model,
                    bool token_ids) {
  v1::Start start;
  start.set_request_id(generation.request_id());
  start.set_model(model.served_names.front());
  start.set_prompt_tokens(generation.prompt_tokens());
  if (token_ids) {
    start.mutable_prompt_token_ids()->Add(generation.prompt_token_ids().begin(),
                                          generation.prompt_token_ids().end());
  }
  return start;
}

void ToProto(const GenerationDelta& delta, bool token_ids,
             v1::GenerateResponse* proto) {
  proto->set_text(delta.text);
  SetRest(delta, token_ids, proto);
}

void ToProto(const GenerationDelta& delta, bool token_ids,
             v1::ChatResponse* proto) {
  switch (delta.kind) {
    case GenerationDelta::Kind::kContent:
      proto->set_content(delta.text);
      break;
    case GenerationDelta::Kind::kReasoning:
      proto->set_reasoning(delta.text);
      break;
    case GenerationDelta::Kind::kToolCall:
      proto->mutable_tool_call()->set_index(delta.tool_call_index);
      proto->mutable_tool_call()->set_id(delta.tool_call_id);
      proto->mutable_tool_call()->set_name(delta.tool_name);
      proto->mutable_tool_call()->set_arguments(delta.text);
      break;
  }
  SetRest(delta, token_ids, proto);
}

}  // namespace shoal
