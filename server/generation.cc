#include "server/generation.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <limits>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/chat_json.h"
#include "server/errors.h"
#include "server/metrics.h"
#include "server/request_id.h"
#include "server/text/sequence_text.h"

namespace shoal {
namespace {

constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 1024;
// Logprobs of prompt tokens in one delta: 1.5 MB of them as a gRPC message.
constexpr size_t kMaxDeltaLogprobs = 1 << 16;
// A queue that is full now has usually moved on after that long.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

absl::Status Invalid(const std::string& param, const std::string& message) {
  return WithDetail(
      absl::InvalidArgumentError(absl::StrCat(param, ": ", message)), param,
      "invalid_value");
}

// The engine's refusals say "parameter: ..." or a code of their own.
absl::Status DescribeRefusal(absl::Status status) {
  const std::string message(status.message());
  const std::string head = message.substr(0, message.find(':'));
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      if (head == "context_length_exceeded") {
        return WithDetail(std::move(status), "prompt", head);
      }
      return WithDetail(std::move(status), head, "invalid_value");
    case absl::StatusCode::kResourceExhausted:
      return WithRetryAfter(WithDetail(std::move(status), "", "queue_full"),
                            kRetryAfter);
    case absl::StatusCode::kUnavailable:
      return WithRetryAfter(WithDetail(std::move(status), "", "draining"),
                            kRetryAfter);
    default:
      return status;
  }
}

RequestOutcome OutcomeOf(FinishReason worst) {
  switch (worst) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      return RequestOutcome::kOk;
    case FinishReason::kCancelled:
      return RequestOutcome::kCancelled;
    case FinishReason::kDeadline:
      return RequestOutcome::kDeadline;
    case FinishReason::kError:
      return RequestOutcome::kError;
  }
  return RequestOutcome::kError;
}

// What a generation needs to know of its request.
struct GenerationSpec {
  std::string request_id;
  std::vector<int32_t> prompt_token_ids;
  SequenceTextOptions text;
  int32_t n = 1;
};

class GenerationImpl : public Generation {
 public:
  GenerationImpl(GenerationSpec spec, std::unique_ptr<EngineStream> stream,
                 const ModelText& text, ServerMetrics* metrics)
      : spec_(std::move(spec)),
        created_(absl::Now()),
        text_(text),
        metrics_(metrics),
        stream_(std::move(stream)) {
    for (int32_t i = 0; i < spec_.n; ++i) {
      sequences_.push_back(std::make_unique<Sequence>(text, spec_.text));
    }
    num_unfinished_ = spec_.n;
  }
  ~GenerationImpl() override {
    stream_.reset();  // cancels what still runs
    if (num_unfinished_ > 0) End(RequestOutcome::kCancelled);
  }

  std::optional<GenerationDelta> TryNext() override {
    while (ready_.empty()) {
      std::optional<TokenEvent> event = stream_->TryNext();
      if (!event.has_value()) return std::nullopt;
      Sequence& sequence = *sequences_[event->index];
      if (sequence.finished) continue;  // what came after a stop string
      MakeDeltas(*std::move(event), sequence);
    }
    GenerationDelta delta = std::move(ready_.front());
    ready_.pop_front();
    if (delta.finish_reason.has_value()) {
      worst_ = std::max(worst_, *delta.finish_reason);
      if (--num_unfinished_ == 0) End(OutcomeOf(worst_));
    }
    return delta;
  }
  bool done() const override { return num_unfinished_ == 0; }
  void SetNotify(std::function<void()> notify) override {
    const bool waits = notify && !ready_.empty();
    if (waits) notify();
    stream_->SetNotify(std::move(notify));
  }
  void Cancel() override { stream_->Cancel(); }
  const std::string& request_id() const override { return spec_.request_id; }
  absl::Time created() const override { return created_; }
  int32_t prompt_tokens() const override {
    return static_cast<int32_t>(spec_.prompt_token_ids.size());
  }
  const std::vector<int32_t>& prompt_token_ids() const override {
    return spec_.prompt_token_ids;
  }

 private:
  struct Sequence {
    Sequence(const ModelText& text, const SequenceTextOptions& options)
        : text(text, options) {}
    SequenceText text;
    int32_t cached_tokens = 0;
    int32_t completion_tokens = 0;
    bool finished = false;
  };

  // Append to ready_ what an event brings.
  void MakePromptDeltas(const TokenEvent& event, const Sequence& sequence);
  void MakeDeltas(TokenEvent event, Sequence& sequence);
  TextLogprob MakeLogprob(const TokenLogprob& logprob) const;
  std::vector<PositionTextLogprobs> MakeLogprobs(
      std::span<const PositionLogprobs> logprobs) const;
  void End(RequestOutcome outcome) {
    if (metrics_ != nullptr) metrics_->OnRequestEnded(outcome);
  }

  const GenerationSpec spec_;
  const absl::Time created_;
  const ModelText& text_;
  ServerMetrics* const metrics_;
  std::unique_ptr<EngineStream> stream_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::deque<GenerationDelta> ready_;  // made, not taken
  int32_t num_unfinished_ = 0;
  FinishReason worst_ = FinishReason::kStop;
};

GenerationDelta::Kind KindOf(CompletionDelta::Kind kind) {
  switch (kind) {
    case CompletionDelta::Kind::kContent:
      return GenerationDelta::Kind::kContent;
    case CompletionDelta::Kind::kReasoning:
      return GenerationDelta::Kind::kReasoning;
    case CompletionDelta::Kind::kToolCall:
      return GenerationDelta::Kind::kToolCall;
  }
  return GenerationDelta::Kind::kContent;
}

// Deltas of their own, small enough for clients' limits on a message.
void GenerationImpl::MakePromptDeltas(const TokenEvent& event,
                                      const Sequence& sequence) {
  std::span<const PositionLogprobs> left(event.prompt_logprobs);
  while (!left.empty()) {
    const size_t a_position = left.front().top.size() + 1;
    const size_t count =
        std::clamp<size_t>(kMaxDeltaLogprobs / a_position, 1, left.size());
    GenerationDelta& delta = ready_.emplace_back();
    delta.index = event.index;
    delta.prompt_logprobs = MakeLogprobs(left.first(count));
    delta.usage = {prompt_tokens(), sequence.cached_tokens, 0};
    left = left.subspan(count);
  }
}

void GenerationImpl::MakeDeltas(TokenEvent event, Sequence& sequence) {
  if (sequence.completion_tokens == 0) {
    sequence.cached_tokens = event.num_cached_tokens;
    MakePromptDeltas(event, sequence);
    // A chunk of the prompt that is not its last.
    if (event.token_ids.empty() && !event.finish_reason.has_value()) return;
  }
  size_t used = 0;
  bool matched = false;
  for (int32_t token : event.token_ids) {
    ++used;
    ++sequence.completion_tokens;
    // The token that ends a turn is no part of its text.
    if (event.stop_token_id >= 0 && used == event.token_ids.size()) break;
    matched = sequence.text.Push(token);
    if (!matched) continue;
    if (!event.finish_reason.has_value()) stream_->Finish(event.index);
    break;
  }
  event.token_ids.resize(used);
  if (event.logprobs.size() > used) event.logprobs.resize(used);
  const bool ended_well = event.finish_reason == FinishReason::kStop ||
                          event.finish_reason == FinishReason::kLength;
  if (event.finish_reason.has_value() && !matched) {
    matched = sequence.text.Finish() && ended_well;
  }
  if (matched) {
    event.finish_reason = FinishReason::kStop;
    event.stop_token_id = -1;
  }

  std::vector<CompletionDelta> parts = sequence.text.Take();
  if (parts.empty()) parts.emplace_back();  // text held back
  const size_t first = ready_.size();
  for (CompletionDelta& part : parts) {
    GenerationDelta& delta = ready_.emplace_back();
    delta.index = event.index;
    delta.kind = KindOf(part.kind);
    delta.text = std::move(part.text);
    delta.tool_call_index = part.tool_call_index;
    delta.tool_call_id = std::move(part.tool_call_id);
    delta.tool_name = std::move(part.tool_name);
    delta.usage = {prompt_tokens(), sequence.cached_tokens,
                   sequence.completion_tokens};
  }
  GenerationDelta& front = ready_[first];
  front.logprobs = MakeLogprobs(event.logprobs);
  front.token_ids = std::move(event.token_ids);
  GenerationDelta& last = ready_.back();
  last.finish_reason = event.finish_reason;
  if (matched) last.matched_stop = sequence.text.matched_stop();
  last.matched_stop_token = event.stop_token_id;
  last.status = std::move(event.status);
  sequence.finished = event.finish_reason.has_value();
}

TextLogprob GenerationImpl::MakeLogprob(const TokenLogprob& logprob) const {
  const int32_t token = logprob.token;
  return {text_.Decode({&token, 1}, /*skip_special_tokens=*/false),
          std::string(text_.TokenBytes(token)), token, logprob.logprob,
          logprob.rank};
}

std::vector<PositionTextLogprobs> GenerationImpl::MakeLogprobs(
    std::span<const PositionLogprobs> logprobs) const {
  std::vector<PositionTextLogprobs> result;
  result.reserve(logprobs.size());
  for (const PositionLogprobs& position : logprobs) {
    PositionTextLogprobs& out = result.emplace_back();
    out.chosen = MakeLogprob(position.chosen);
    out.top.reserve(position.top.size());
    for (const TokenLogprob& top : position.top) {
      out.top.push_back(MakeLogprob(top));
    }
  }
  return result;
}

class GenerationServiceImpl : public GenerationService {
 public:
  GenerationServiceImpl(Engine& engine, const ModelText& text, ModelInfo info,
                        ServerMetrics* metrics)
      : engine_(engine),
        text_(text),
        info_(std::move(info)),
        metrics_(metrics) {}

  absl::StatusOr<std::unique_ptr<Generation>> Start(
      GenerationRequest request) override {
    if (metrics_ != nullptr) metrics_->OnRequestReceived();
    absl::StatusOr<std::unique_ptr<Generation>> generation =
        TryStart(std::move(request));
    if (!generation.ok() && metrics_ != nullptr) {
      metrics_->OnRequestEnded(absl::IsDeadlineExceeded(generation.status())
                                   ? RequestOutcome::kDeadline
                                   : RequestOutcome::kRejected);
    }
    return generation;
  }

  absl::Status CheckModel(const std::string& name) const override {
    const auto& names = info_.served_names;
    if (name.empty() ||
        std::find(names.begin(), names.end(), name) != names.end()) {
      return absl::OkStatus();
    }
    return WithDetail(absl::NotFoundError(absl::StrCat(
                          "model: \"", PrintableText(name, 80),
                          "\" is not served; \"", names.front(), "\" is")),
                      "model", "model_not_found");
  }

  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const ChatPrompt& chat) override {
    absl::StatusOr<ChatTemplateInput> input = MakeTemplateInput(chat);
    if (!input.ok()) return input.status();
    absl::StatusOr<std::vector<int32_t>> ids = text_.EncodeChat(*input);
    if (absl::IsInvalidArgument(ids.status())) {
      return WithDetail(ids.status(), "messages", "invalid_value");
    }
    return ids;
  }
  const ModelInfo& model_info() const override { return info_; }
  const ModelText& text() const override { return text_; }
  Engine& engine() override { return engine_; }

 private:
  absl::StatusOr<std::unique_ptr<Generation>> TryStart(
      GenerationRequest request);
  absl::StatusOr<std::vector<int32_t>> EncodePrompt(Prompt prompt);

  Engine& engine_;
  const ModelText& text_;
  const ModelInfo info_;
  ServerMetrics* const metrics_;
};

absl::StatusOr<std::vector<int32_t>> GenerationServiceImpl::EncodePrompt(
    Prompt prompt) {
  if (auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
    return std::move(*ids);
  }
  if (const auto* plain = std::get_if<std::string>(&prompt)) {
    if (plain->empty()) return Invalid("prompt", "expected some text");
    return text_.Encode(*plain, /*add_special_tokens=*/true);
  }
  return EncodeChat(std::get<ChatPrompt>(prompt));
}

absl::StatusOr<std::unique_ptr<Generation>> GenerationServiceImpl::TryStart(
    GenerationRequest request) {
  absl::Status model = CheckModel(request.model);
  if (!model.ok()) return model;
  if (request.stop.size() > kMaxStopStrings) {
    return Invalid(
        "stop", absl::StrCat("expected at most ", kMaxStopStrings, " strings"));
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return Invalid("stop", absl::StrCat("expected strings of 1 to ",
                                          kMaxStopBytes, " bytes"));
    }
  }
  const int64_t max_n = engine_.Snapshot().max_num_seqs;
  if (request.n < 1 || request.n > max_n) {
    return Invalid("n",
                   absl::StrCat("expected 1 to ", max_n, ", got ", request.n));
  }
  if (request.max_tokens.has_value() && *request.max_tokens < 1) {
    return Invalid("max_tokens", absl::StrCat("expected at least 1, got ",
                                              *request.max_tokens));
  }
  const auto* chat = std::get_if<ChatPrompt>(&request.prompt);
  const bool is_chat = chat != nullptr;
  // An array of objects, or else no array of tools, which encoding refuses.
  const bool has_tools =
      is_chat && chat->tools_json.find('{') != std::string::npos;
  absl::StatusOr<std::vector<int32_t>> ids =
      EncodePrompt(std::move(request.prompt));
  if (!ids.ok()) return ids.status();

  const int64_t room = std::max<int64_t>(
      1, engine_.Snapshot().max_model_len - static_cast<int64_t>(ids->size()));
  EngineRequest engine_request;
  engine_request.sampling = std::move(request.sampling);
  // More than fits means: up to the context's end.
  engine_request.sampling.max_tokens =
      static_cast<int32_t>(std::min(room, request.max_tokens.value_or(room)));
  if (!engine_request.sampling.ignore_eos) {
    std::vector<int32_t>& stops = engine_request.sampling.stop_token_ids;
    const std::vector<int32_t>& ends = text_.end_token_ids();
    stops.insert(stops.end(), ends.begin(), ends.end());
  }
  engine_request.n = static_cast<int32_t>(request.n);
  engine_request.priority = request.priority;
  engine_request.deadline = request.deadline;
  engine_request.cache_salt = request.tenant + '\0' + request.cache_salt;

  GenerationSpec spec;
  spec.request_id = request.request_id.empty() ? NewRequestId()
                                               : std::move(request.request_id);
  spec.prompt_token_ids = *ids;
  spec.text.stop = std::move(request.stop);
  spec.text.include_stop = request.include_stop_in_output;
  spec.text.skip_special_tokens = request.skip_special_tokens;
  if (is_chat) spec.text.parser = ChooseParser(text_, *ids, has_tools);
  if (spec.text.parser.has_value()) {
    spec.text.parser->new_call_id = [] { return "call_" + NewRequestId(); };
  }
  spec.n = engine_request.n;
  engine_request.prompt_token_ids = *std::move(ids);

  absl::StatusOr<std::unique_ptr<EngineStream>> stream =
      engine_.Submit(std::move(engine_request));
  if (!stream.ok()) return DescribeRefusal(stream.status());
  return std::make_unique<GenerationImpl>(std::move(spec), *std::move(stream),
                                          text_, metrics_);
}

}  // namespace

std::unique_ptr<GenerationService> MakeGenerationService(
    Engine& engine, const ModelText& text, ModelInfo info,
    ServerMetrics* metrics) {
  return std::make_unique<GenerationServiceImpl>(engine, text, std::move(info),
                                                 metrics);
}

}  // namespace shoal
