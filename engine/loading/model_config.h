// ModelConfig is what the engine knows of a model's shape, in Hugging Face
// spellings, whether it came from config.json or from GGUF metadata. Plain
// data; validated by the loader: a config that left LoadCheckpoint() is
// consistent (sizes positive and below sane limits, heads divisible).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/elementwise.h"

namespace shoal {

// rope_scaling of config.json; formulas in engine/models/rope.h.
struct RopeScaling {
  enum class Type : uint8_t { kNone, kLinear, kLlama3, kYarn };
  Type type = Type::kNone;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_position_embeddings = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;            // 0: absent
  double mscale_all_dim = 0;    // 0: absent
  double attention_factor = 0;  // 0: absent
};

// How a router picks experts; formulas in kernels/moe.h.
enum class TopkMethod : uint8_t {
  kGreedy,
  kGroupLimitedGreedy,  // groups by their best score (DeepSeek-V2)
  kNoauxTc,             // groups by their two best biased scores (V3)
};
enum class ScoringFunc : uint8_t { kSoftmax, kSigmoid, kSqrtSoftplus };

// DeepSeek-V4's compress_ratios besides 0: windows that overlap and are chosen
// by an indexer (CSA), and long ones that are all read (HCA).
inline constexpr int32_t kOverlapRatio = 4;
inline constexpr int32_t kLongRatio = 128;

struct ModelConfig {
  std::string model_type;  // "llama", "qwen2", "qwen3", ...
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  // Layout in which the stored q and k rows are to be rotated: GGUF arch llama
  // stores them permuted for interleaved rotation.
  RopeLayout rope_layout = RopeLayout::kHalfSplit;
  // From GGUF's rope_freqs.weight: inv_freq[i] is divided by element i, after
  // rope_scaling. head_dim / 2 positive values, or empty. It is how GGUF stores
  // llama3 scaling, so rope_scaling is then kNone.
  std::vector<float> rope_freq_factors;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // .bias on q, k, v and o
  bool qkv_bias = false;        // .bias on q, k and v (qwen2)
  bool mlp_bias = false;
  bool qk_norm = false;  // per-head RMSNorm on q and k (qwen3)
  // Tile of F8_E4M3 weights that shares one scale; 0: no such weights.
  int32_t fp8_block_rows = 0;
  int32_t fp8_block_cols = 0;
  // Multi-head latent attention (DeepSeek-V2 and V3); 0: none.
  int64_t q_lora_rank = 0;  // 0: a plain q_proj
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  // GGUF: k_b_proj [heads * kv_lora_rank, qk_nope_head_dim] and v_b_proj
  // [heads * v_head_dim, kv_lora_rank] stand for kv_b_proj.
  bool kv_b_split = false;
  // Mixture of experts; n_routed_experts is 0 in dense models.
  int64_t n_routed_experts = 0;
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  TopkMethod topk_method = TopkMethod::kGreedy;
  ScoringFunc scoring_func = ScoringFunc::kSoftmax;
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1;
  int64_t first_k_dense_replace = 0;
  int64_t moe_layer_freq = 1;
  // Sparse attention's indexer (DeepSeek-V3.2); 0: none.
  int64_t index_n_heads = 0;
  int64_t index_head_dim = 0;
  int64_t index_topk = 0;
  // DeepSeek-V4; hc_mult is 0 in all others.
  int64_t hc_mult = 0;  // residual streams
  int64_t hc_sinkhorn_iters = 0;
  float hc_eps = 0;
  int64_t o_groups = 0;
  int64_t o_lora_rank = 0;
  int64_t sliding_window = 0;
  std::vector<int32_t> compress_ratios;  // of each layer, at least
  double compress_rope_theta = 0;        // of layers with a ratio
  int64_t num_hash_layers = 0;           // first ones: experts by token id
  float swiglu_limit = 0;                // 0: none
  int64_t num_nextn_predict_layers = 0;  // read only when asked for
  std::vector<int32_t> eos_token_ids;    // may be empty
  int32_t bos_token_id = -1;             // -1: none
  std::string torch_dtype;               // as stored: "bfloat16", "Q4_1", ...

  bool is_moe_layer(int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace &&
           layer % moe_layer_freq == 0;
  }
  bool is_hash_layer(int64_t layer) const { return layer < num_hash_layers; }
};

}  // namespace shoal
