// Conversations as the JSON that chat templates read.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/generation.h"
#include "server/text/model_text.h"

namespace shoal {

// InvalidArgument (with the parameter) for an empty conversation, an unknown
// role, text that is not UTF-8, or tool arguments and kwargs that are no JSON.
absl::StatusOr<ChatTemplateInput> MakeTemplateInput(const ChatPrompt& chat);

}  // namespace shoal
