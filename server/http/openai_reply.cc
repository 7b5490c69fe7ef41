#include "server/http/openai_reply.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/http/api_error.h"
#include "server/http/openai_format.h"

namespace shoal {
namespace {

// Events that are ready together go out in one write of about this size.
constexpr size_t kPieceBytes = 16 << 10;
// Logprobs, alternatives counted, in an answer that is sent whole: some 400
// bytes each until it is written.
constexpr int64_t kMaxLogprobs = 1 << 20;

int64_t NumLogprobs(const std::vector<PositionTextLogprobs>& positions) {
  int64_t count = 0;
  for (const PositionTextLogprobs& position : positions) {
    count += 1 + static_cast<int64_t>(position.top.size());
  }
  return count;
}

// What both kinds of answer keep of the running generations.
class OpenAiReply : public ReplyStream {
 public:
  OpenAiReply(std::vector<std::unique_ptr<Generation>> generations,
              OpenAiReplyOptions options)
      : generations_(std::move(generations)),
        options_(std::move(options)),
        completion_tokens_(generations_.size() * options_.n),
        cached_tokens_(generations_.size()) {
    const Generation& first = *generations_[0];
    id_ =
        absl::StrCat(options_.chat ? "chatcmpl-" : "cmpl-", first.request_id());
    created_ = absl::ToUnixSeconds(first.created());
  }

  void SetNotify(std::function<void()> notify) override {
    for (auto& generation : generations_) generation->SetNotify(notify);
  }

 protected:
  struct Next {
    size_t choice;  // over all generations
    size_t generation;
    GenerationDelta delta;
  };

  // The next delta of any generation, each in turn.
  std::optional<Next> NextDelta() {
    for (size_t k = 0; k < generations_.size(); ++k) {
      const size_t g = (turn_ + k) % generations_.size();
      if (generations_[g]->done()) continue;
      std::optional<GenerationDelta> delta = generations_[g]->TryNext();
      if (!delta) continue;
      turn_ = g + 1;
      const size_t choice = g * options_.n + delta->index;
      completion_tokens_[choice] = delta->usage.completion_tokens;
      cached_tokens_[g] =
          std::max<int64_t>(cached_tokens_[g], delta->usage.cached_tokens);
      return Next{choice, g, *std::move(delta)};
    }
    return std::nullopt;
  }

  bool AllDone() const {
    return std::all_of(generations_.begin(), generations_.end(),
                       [](const auto& g) { return g->done(); });
  }

  Json Usage() const {
    int64_t prompt = 0, cached = 0, completion = 0;
    for (const auto& generation : generations_) {
      prompt += generation->prompt_tokens();
    }
    for (int64_t tokens : cached_tokens_) cached += tokens;
    for (int64_t tokens : completion_tokens_) completion += tokens;
    return UsageJson(prompt, cached, completion);
  }

  // Fields that begin every object.
  Json Envelope(const char* object) const {
    return {{"id", id_},
            {"object", object},
            {"created", created_},
            {"model", options_.model}};
  }

  Piece Failure(const absl::Status& status) {
    for (auto& generation : generations_) generation->Cancel();
    Piece piece;
    piece.head = ApiError(status);
    piece.last = true;
    return piece;
  }

  const std::vector<std::unique_ptr<Generation>> generations_;
  const OpenAiReplyOptions options_;

 private:
  std::string id_;
  int64_t created_ = 0;
  size_t turn_ = 0;
  std::vector<int64_t> completion_tokens_;  // by choice
  std::vector<int64_t> cached_tokens_;      // by generation
};

class StreamedReply final : public OpenAiReply {
 public:
  StreamedReply(std::vector<std::unique_ptr<Generation>> generations,
                OpenAiReplyOptions options)
      : OpenAiReply(std::move(generations), std::move(options)),
        choices_(generations_.size() * options_.n) {}

  std::optional<Piece> TryNext() override {
    Piece piece;
    while (piece.data.size() < kPieceBytes && !piece.last) {
      std::optional<Next> next = NextDelta();
      if (!next) break;
      const GenerationDelta& delta = next->delta;
      if (delta.finish_reason && !EndedWell(delta)) {
        const absl::Status status = EndError(delta);
        if (!head_sent_ && piece.data.empty()) return Failure(status);
        for (const auto& generation : generations_) generation->Cancel();
        absl::StrAppend(&piece.data, "data: ", ApiErrorBody(status), "\n\n");
        End(piece);
      } else {
        AppendDelta(*next, piece.data);
        if (AllDone()) {
          if (options_.include_usage) {
            Json chunk = Chunk();
            chunk["choices"] = Json::array();
            chunk["usage"] = Usage();
            AppendEvent(chunk, piece.data);
          }
          End(piece);
        }
      }
    }
    if (piece.data.empty()) return std::nullopt;
    if (!head_sent_) {
      head_sent_ = true;
      piece.head.emplace();
      piece.head->content_type = "text/event-stream; charset=utf-8";
      // Proxies that would collect the stream leave it alone.
      piece.head->headers.emplace_back("X-Accel-Buffering", "no");
      if (piece.last) piece.head->body = std::move(piece.data);
    }
    return piece;
  }

 private:
  struct Choice {
    bool begun = false;
    bool called_tools = false;
    int64_t text_offset = 0;
  };

  static void End(Piece& piece) {
    piece.data += "data: [DONE]\n\n";
    piece.last = true;
  }

  static void AppendEvent(const Json& chunk, std::string& out) {
    absl::StrAppend(&out, "data: ", DumpJson(chunk), "\n\n");
  }

  Json Chunk() const {
    return Envelope(options_.chat ? "chat.completion.chunk"
                                  : "text_completion");
  }

  void AppendChoice(Json choice, std::string& out) const {
    Json chunk = Chunk();
    chunk["choices"] = Json::array({std::move(choice)});
    if (options_.include_usage) chunk["usage"] = nullptr;
    AppendEvent(chunk, out);
  }

  void AppendDelta(const Next& next, std::string& out) {
    const GenerationDelta& delta = next.delta;
    Choice& state = choices_[next.choice];
    if (options_.chat && !state.begun) {
      state.begun = true;
      AppendChoice({{"index", next.choice},
                    {"delta", {{"role", "assistant"}, {"content", ""}}},
                    {"logprobs", nullptr},
                    {"finish_reason", nullptr}},
                   out);
    }
    const bool new_call = delta.kind == GenerationDelta::Kind::kToolCall &&
                          !delta.tool_name.empty();
    state.called_tools = state.called_tools || new_call;
    if (delta.text.empty() && !new_call && delta.logprobs.empty() &&
        !delta.finish_reason) {
      return;  // text held back
    }
    Json choice = {{"index", next.choice}};
    if (options_.chat) {
      choice["delta"] = ChatDelta(delta);
    } else {
      choice["text"] = delta.text;
    }
    choice["logprobs"] = nullptr;
    if (options_.logprobs && !delta.logprobs.empty()) {
      choice["logprobs"] =
          options_.chat
              ? ChatLogprobs(delta.logprobs)
              : CompletionLogprobs(delta.logprobs, &state.text_offset);
    }
    choice["finish_reason"] = nullptr;
    if (delta.finish_reason) {
      choice["finish_reason"] =
          FinishReasonName(*delta.finish_reason, state.called_tools);
      choice["stop_reason"] = StopReason(delta);
    }
    AppendChoice(std::move(choice), out);
  }

  static Json ChatDelta(const GenerationDelta& delta) {
    // The last delta often brings no text.
    if (delta.text.empty() && delta.tool_name.empty()) return Json::object();
    switch (delta.kind) {
      case GenerationDelta::Kind::kReasoning:
        return {{"reasoning_content", delta.text}};
      case GenerationDelta::Kind::kToolCall:
        return {{"tool_calls", Json::array({ToolCallDelta(delta)})}};
      default:
        return {{"content", delta.text}};
    }
  }

  std::vector<Choice> choices_;
  bool head_sent_ = false;
};

class WholeReply final : public OpenAiReply {
 public:
  WholeReply(std::vector<std::unique_ptr<Generation>> generations,
             OpenAiReplyOptions options)
      : OpenAiReply(std::move(generations), std::move(options)),
        choices_(generations_.size() * options_.n),
        prompt_logprobs_(generations_.size()) {}

  std::optional<Piece> TryNext() override {
    while (std::optional<Next> next = NextDelta()) {
      if (next->delta.finish_reason && !EndedWell(next->delta)) {
        return Failure(EndError(next->delta));
      }
      num_logprobs_ += NumLogprobs(next->delta.logprobs) +
                       NumLogprobs(next->delta.prompt_logprobs);
      if (num_logprobs_ > kMaxLogprobs) {
        return Failure(ParamError(
            options_.prompt_logprobs ? "prompt_logprobs" : "logprobs",
            absl::StrCat("The answer would hold more than ", kMaxLogprobs,
                         " logprobs"),
            "too_many_logprobs"));
      }
      Add(std::move(*next));
    }
    if (!AllDone()) return std::nullopt;
    Piece piece;
    piece.head.emplace();
    piece.head->content_type = "application/json";
    piece.head->body = DumpJson(Body());
    piece.last = true;
    return piece;
  }

 private:
  struct Choice {
    std::string content;
    std::string reasoning;
    std::vector<ToolCall> tool_calls;
    std::vector<PositionTextLogprobs> logprobs;
    FinishReason finish_reason = FinishReason::kStop;
    Json stop_reason;
  };

  void Add(Next next) {
    GenerationDelta& delta = next.delta;
    Choice& choice = choices_[next.choice];
    switch (delta.kind) {
      case GenerationDelta::Kind::kContent:
        choice.content += delta.text;
        break;
      case GenerationDelta::Kind::kReasoning:
        choice.reasoning += delta.text;
        break;
      case GenerationDelta::Kind::kToolCall:
        if (!delta.tool_name.empty()) {
          choice.tool_calls.push_back(
              {delta.tool_call_id, delta.tool_name, ""});
        }
        if (!choice.tool_calls.empty()) {
          choice.tool_calls.back().arguments += delta.text;
        }
        break;
    }
    std::move(delta.logprobs.begin(), delta.logprobs.end(),
              std::back_inserter(choice.logprobs));
    std::move(delta.prompt_logprobs.begin(), delta.prompt_logprobs.end(),
              std::back_inserter(prompt_logprobs_[next.generation]));
    if (delta.finish_reason) {
      choice.finish_reason = *delta.finish_reason;
      choice.stop_reason = StopReason(delta);
    }
  }

  Json Body() const {
    Json body = Envelope(options_.chat ? "chat.completion" : "text_completion");
    Json choices = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      choices.push_back(ChoiceJson(i));
    }
    body["choices"] = std::move(choices);
    body["usage"] = Usage();
    if (options_.chat && options_.prompt_logprobs) {
      body["prompt_logprobs"] = PromptLogprobs(prompt_logprobs_[0]);
    }
    return body;
  }

  Json ChoiceJson(size_t index) const {
    const Choice& choice = choices_[index];
    Json json = {{"index", index}};
    if (options_.chat) {
      json["message"] = MessageJson(choice);
    } else {
      json["text"] = choice.content;
    }
    json["logprobs"] = nullptr;
    if (options_.logprobs) {
      int64_t offset = 0;
      json["logprobs"] = options_.chat
                             ? ChatLogprobs(choice.logprobs)
                             : CompletionLogprobs(choice.logprobs, &offset);
    }
    json["finish_reason"] =
        FinishReasonName(choice.finish_reason, !choice.tool_calls.empty());
    json["stop_reason"] = choice.stop_reason;
    if (!options_.chat && options_.prompt_logprobs) {
      json["prompt_logprobs"] =
          PromptLogprobs(prompt_logprobs_[index / options_.n]);
    }
    return json;
  }

  static Json MessageJson(const Choice& choice) {
    Json message = {{"role", "assistant"}, {"content", choice.content}};
    if (!choice.reasoning.empty()) {
      message["reasoning_content"] = choice.reasoning;
    }
    if (choice.tool_calls.empty()) return message;
    if (choice.content.empty()) message["content"] = nullptr;
    Json calls = Json::array();
    for (const ToolCall& call : choice.tool_calls) {
      calls.push_back(
          {{"id", call.id},
           {"type", "function"},
           {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    }
    message["tool_calls"] = std::move(calls);
    return message;
  }

  std::vector<Choice> choices_;
  int64_t num_logprobs_ = 0;
  // By generation; empty where not asked for.
  std::vector<std::vector<PositionTextLogprobs>> prompt_logprobs_;
};

}  // namespace

std::unique_ptr<ReplyStream> MakeOpenAiReply(
    std::vector<std::unique_ptr<Generation>> generations,
    OpenAiReplyOptions options) {
  if (options.stream) {
    return std::make_unique<StreamedReply>(std::move(generations),
                                           std::move(options));
  }
  return std::make_unique<WholeReply>(std::move(generations),
                                      std::move(options));
}

}  // namespace shoal
