#include "engine/loading/active_weights.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace shoal {

ActiveWeights CountActiveWeights(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  const std::string behind =
      absl::StrCat("model.layers.", config.num_hidden_layers, ".");
  ActiveWeights active;
  int64_t expert_values = 0;
  int64_t expert_bytes = 0;
  for (const auto& [name, weight] : checkpoint.weights()) {
    if (weight.data.dtype == DType::kI32 || weight.data.dtype == DType::kI64) {
      continue;  // a table that a token reads one row of
    }
    const int64_t values = weight.data.num_elements();
    const int64_t bytes = weight.data.bytes() +
                          (weight.scales.empty() ? 0 : weight.scales.bytes());
    if (name == "lm_head.weight" ||
        (name == "model.embed_tokens.weight" && config.tie_word_embeddings)) {
      active.head_values += values;
      active.bytes += bytes;
    } else if (absl::StrContains(name, ".mlp.experts.") &&
               !absl::StartsWith(name, behind)) {
      expert_values += values;
      expert_bytes += bytes;
    } else if (absl::StartsWith(name, "model.layers.") &&
               !absl::StartsWith(name, behind)) {
      active.layer_values += values;
      active.bytes += bytes;
    }
  }
  if (config.n_routed_experts > 0) {
    const int64_t chosen = config.num_experts_per_tok;
    active.layer_values += expert_values / config.n_routed_experts * chosen;
    active.expert_bytes = expert_bytes / config.n_routed_experts * chosen;
    active.bytes += active.expert_bytes;
  }
  return active;
}

}  // namespace shoal
