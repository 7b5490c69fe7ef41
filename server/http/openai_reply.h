// The answers of /v1/chat/completions and /v1/completions to running
// generations: server-sent events, or one JSON object at the end. Until its
// first byte a failure becomes an error response; after that, an error event.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/generation.h"
#include "server/http/http_message.h"

namespace shoal {

struct OpenAiReplyOptions {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;
  bool logprobs = false;
  bool prompt_logprobs = false;
  int64_t n = 1;      // sequences of each generation
  std::string model;  // as named in the response
};

// REQUIRES: at least one generation; exactly one for chat.
std::unique_ptr<ReplyStream> MakeOpenAiReply(
    std::vector<std::unique_ptr<Generation>> generations,
    OpenAiReplyOptions options);

}  // namespace shoal
