// GGUF's view of a model in Hugging Face's words: metadata to ModelConfig and
// tensor names to tensor names.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/loading/gguf.h"
#include "engine/loading/model_config.h"

namespace shoal {

// InvalidArgument naming the file, the key, expected and got; Unimplemented for
// an architecture or feature that is not supported.
absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& gguf);

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight". A name
// that is not in the tables comes back as it is.
//
// Names without a Hugging Face counterpart:
//   blk.L.ffn_{gate,up,down}_exps  [experts, out, in], all experts of a layer:
//       model.layers.L.mlp.experts.{gate,up,down}_proj.weight
//   blk.L.attn_k_b, attn_v_b  per-head halves of kv_b_proj, keys transposed:
//       model.layers.L.self_attn.{k,v}_b_proj.weight
std::string HfTensorName(std::string_view gguf_name);

}  // namespace shoal
