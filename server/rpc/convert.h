// shoal.v1 messages to requests and deltas to messages. Pure.
#pragma once

#include "absl/status/statusor.h"
#include "server/generation.h"
#include "shoal/v1/inference.pb.h"

namespace shoal {

// InvalidArgument without a prompt. Values are judged by the service.
absl::StatusOr<GenerationRequest> FromProto(const v1::GenerateRequest& proto);
GenerationRequest FromProto(const v1::ChatRequest& proto);
ChatPrompt ChatFromProto(const v1::ChatRequest& proto);

// First message of a stream.
v1::Start MakeStart(const Generation& generation, const ModelInfo& model,
                    bool token_ids);
// `token_ids`: whether the client asked for them.
void ToProto(const GenerationDelta& delta, bool token_ids,
             v1::GenerateResponse* proto);
void ToProto(const GenerationDelta& delta, bool token_ids,
             v1::ChatResponse* proto);

}  // namespace shoal
