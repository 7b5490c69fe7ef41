// Every dialect ends here: an adapter turns its wire message into one
// GenerationRequest, and reads typed deltas from the Generation that comes
// back. Rendering, tokenising, stop strings, detokenising and parsing of
// answers happen behind this header; token ids and scheduling behind
// engine/engine.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/text/model_text.h"

namespace shoal {

class ServerMetrics;

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON text
};

struct ChatMessage {
  std::string role;  // "system", "developer", "user", "assistant", "tool"
  std::string content;
  std::string name;               // may be empty
  std::string reasoning_content;  // of earlier assistant turns; may be empty
  std::string tool_call_id;       // role "tool"
  std::vector<ToolCall> tool_calls;
};

struct ChatPrompt {
  std::vector<ChatMessage> messages;  // at least one
  std::string tools_json;             // JSON array as given, or empty
  std::string template_kwargs_json;   // JSON object, or empty
  bool add_generation_prompt = true;
};

using Prompt = std::variant<std::string, std::vector<int32_t>, ChatPrompt>;

struct GenerationRequest {
  std::string request_id;  // for logs and response ids; empty: made up
  std::string model;       // empty: the served one; else must match a name
  Prompt prompt;
  SamplingParams sampling;            // its max_tokens is set by the service
  std::optional<int64_t> max_tokens;  // absent: up to the context's end
  std::vector<std::string> stop;      // stop strings
  bool include_stop_in_output = false;
  bool skip_special_tokens = true;
  int64_t n = 1;
  int32_t priority = 0;
  absl::Time deadline = absl::InfiniteFuture();
  std::string tenant;      // from the API key; salts the prefix cache
  std::string cache_salt;  // client's own
};

struct TextLogprob {
  std::string text;   // the token's text as decoded alone
  std::string bytes;  // its raw bytes (may be part of a character)
  int32_t token = 0;
  float logprob = 0;
  int32_t rank = 0;
};
struct PositionTextLogprobs {
  TextLogprob chosen;
  std::vector<TextLogprob> top;
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;  // of the delta's sequence
};

// A piece of one sequence's output, in order.
struct GenerationDelta {
  enum class Kind : uint8_t { kContent, kReasoning, kToolCall };
  int32_t index = 0;  // which of n
  Kind kind = Kind::kContent;
  std::string text;  // whole characters; may be empty (text held back)
  // kToolCall: position in the list; id and name on its first delta, then
  // `text` carries pieces of the JSON arguments.
  int32_t tool_call_index = 0;
  std::string tool_call_id;
  std::string tool_name;
  std::vector<int32_t> token_ids;
  std::vector<PositionTextLogprobs> logprobs;  // one a token, if asked
  // If asked, in deltas of their own before the first text.
  std::vector<PositionTextLogprobs> prompt_logprobs;
  Usage usage;  // so far
  // Last delta of this sequence:
  std::optional<FinishReason> finish_reason;
  std::string matched_stop;         // the stop string, if one ended it
  int32_t matched_stop_token = -1;  // or the token
  absl::Status status;  // why, when finish_reason is kError or kDeadline
};

// One running request. Reader side of TokenStream: same thread rules.
// Destroying it cancels what still runs.
class Generation {
 public:
  virtual ~Generation() = default;
  virtual std::optional<GenerationDelta> TryNext() = 0;
  virtual bool done() const = 0;  // every sequence's last delta was taken
  virtual void SetNotify(std::function<void()> notify) = 0;
  virtual void Cancel() = 0;
  virtual const std::string& request_id() const = 0;
  virtual absl::Time created() const = 0;
  virtual int32_t prompt_tokens() const = 0;
  virtual const std::vector<int32_t>& prompt_token_ids() const = 0;
};

struct ModelInfo {
  std::vector<std::string> served_names;  // first one is answered in responses
  std::string path;
  absl::Time loaded_at;
  int32_t max_model_len = 0;
};

class GenerationService {
 public:
  virtual ~GenerationService() = default;

  // Renders, tokenises and submits. Takes milliseconds for a long prompt: call
  // it off the I/O threads. Counts the request in the metrics: received here,
  // ended when the Generation is (rejected if this fails).
  virtual absl::StatusOr<std::unique_ptr<Generation>> Start(
      GenerationRequest request) = 0;

  // NotFound (with param "model") if `name` is neither empty nor served.
  virtual absl::Status CheckModel(const std::string& name) const = 0;
  // Tokens of the rendered conversation. InvalidArgument (param "messages")
  // where the template refuses it.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const ChatPrompt& chat) = 0;
  virtual const ModelInfo& model_info() const = 0;
  virtual const ModelText& text() const = 0;
  virtual Engine& engine() = 0;
};

// `engine`, `text` and `metrics` (may be nullptr) must outlive the service.
std::unique_ptr<GenerationService> MakeGenerationService(
    Engine& engine, const ModelText& text, ModelInfo info,
    ServerMetrics* metrics);

}  // namespace shoal
