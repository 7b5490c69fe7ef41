// The chat formats of DeepSeek's models, for those that ship no template: V3.2
// and V4 do not, and conversions of older ones sometimes lose theirs. A model's
// own template always comes first (model_text.h).
//
//   v2    LLM-chat, MoE-16B-chat, V2            User: ... Assistant: ...
//   v3    V3 (12-2024, 03-2025)                 turn tokens, tool tokens
//   r1    R1 and its distills                   as v3, reasoning first
//   v3.1  V3.1                                  thinking or not
//   v3.2  V3.2, V3.2-Exp                        tools as DSML blocks
//   v4    V4-Flash, V4-Pro                      tool results in user turns
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/text/model_text.h"

namespace shoal {

enum class ChatFormat : uint8_t { kV2, kV3, kR1, kV31, kV32, kV4 };

// What a model of that type (of config.json) was trained with, as far as the
// type and the vocabulary tell: `has_token` answers whether an added token of
// that text exists. Absent: not a DeepSeek model, or not its vocabulary.
std::optional<ChatFormat> ChooseChatFormat(
    std::string_view model_type,
    const std::function<bool(std::string_view)>& has_token);

// The whole prompt, beginning of sentence included. Besides roles and contents:
// * template_kwargs: "thinking" (or "enable_thinking"), bool. Absent: true if
//   "reasoning_effort" is given and not "none". "reasoning_effort": "max" and
//   "response_format" (a JSON schema) as v3.2 and v4 know them.
// * tools go into the first system text (v3.2, v4); v3, r1 and v3.1 have no
//   text for them, so callers describe tools there themselves; v2 refuses them.
// * A message may carry "tools" and "response_format" of its own (v3.2, v4).
// * "developer" is another word for "system", but after the first user turn of
//   v3.2 and v4, whose own developer turns are a kind of user turn.
// InvalidArgument naming the message or variable at fault.
absl::StatusOr<std::string> EncodeChatFormat(ChatFormat format,
                                             const ChatTemplateInput& input);

}  // namespace shoal
