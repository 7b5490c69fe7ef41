#include "server/synth/geometry.h"

#include <utility>

#include "engine/loading/load_error.h"

namespace shoal {
namespace {

struct Width {
  int64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads;
};

ModelConfig Dense(const char* model_type, const Width& width, double rope_theta,
                  float eps, int64_t positions) {
  ModelConfig config;
  config.model_type = model_type;
  config.vocab_size = width.vocab_size;
  config.hidden_size = width.hidden_size;
  config.intermediate_size = width.intermediate_size;
  config.num_hidden_layers = width.layers;
  config.num_attention_heads = width.heads;
  config.num_key_value_heads = width.kv_heads;
  config.head_dim = width.hidden_size / width.heads;
  config.rope_theta = rope_theta;
  config.rms_norm_eps = eps;
  config.max_position_embeddings = positions;
  config.qkv_bias = config.model_type == "qwen2";
  config.bos_token_id = 0;
  config.eos_token_ids = {1};
  return config;
}

ModelConfig Llama(const Width& width, double rope_theta, float eps,
                  int64_t positions) {
  return Dense("llama", width, rope_theta, eps, positions);
}

ModelConfig Llama3(const Width& width, int64_t original_positions) {
  ModelConfig config = Llama(width, 500000, 1e-5f, 16 * original_positions);
  config.rope_scaling.type = RopeScaling::Type::kLlama3;
  config.rope_scaling.factor = 8;
  config.rope_scaling.original_max_position_embeddings = original_positions;
  return config;
}

ModelConfig Qwen2(const Width& width, double rope_theta, float eps) {
  return Dense("qwen2", width, rope_theta, eps, 131072);
}

ModelConfig Qwen3(const Width& width, double yarn_factor) {
  ModelConfig config = Dense("qwen3", width, 1e6, 1e-6f, 131072);
  config.qkv_bias = false;
  config.qk_norm = true;
  config.rope_scaling.type = RopeScaling::Type::kYarn;
  config.rope_scaling.factor = yarn_factor;
  config.rope_scaling.original_max_position_embeddings =
      static_cast<int64_t>(131072 / yarn_factor);
  return config;
}

struct Experts {
  int64_t routed, shared, chosen, intermediate_size, first_dense;
};

void AddExperts(const Experts& experts, ModelConfig* config) {
  config->n_routed_experts = experts.routed;
  config->n_shared_experts = experts.shared;
  config->num_experts_per_tok = experts.chosen;
  config->moe_intermediate_size = experts.intermediate_size;
  config->first_k_dense_replace = experts.first_dense;
}

ModelConfig Moe(const Width& width, const Experts& experts, int64_t positions) {
  ModelConfig config = Dense("deepseek", width, 10000, 1e-6f, positions);
  AddExperts(experts, &config);
  return config;
}

struct Latent {
  int64_t q_rank, kv_rank, nope, rope, value;
};

void AddYarn(double factor, int64_t original_positions, double mscale,
             ModelConfig* config) {
  config->rope_scaling.type = RopeScaling::Type::kYarn;
  config->rope_scaling.factor = factor;
  config->rope_scaling.original_max_position_embeddings = original_positions;
  config->rope_scaling.mscale = mscale;
  config->rope_scaling.mscale_all_dim = mscale;
  config->max_position_embeddings =
      static_cast<int64_t>(factor) * original_positions;
}

ModelConfig V2(const Width& width, const Latent& latent,
               const Experts& experts) {
  ModelConfig config = Dense("deepseek_v2", width, 10000, 1e-6f, 1);
  AddExperts(experts, &config);
  config.q_lora_rank = latent.q_rank;
  config.kv_lora_rank = latent.kv_rank;
  config.qk_nope_head_dim = latent.nope;
  config.qk_rope_head_dim = latent.rope;
  config.v_head_dim = latent.value;
  config.head_dim = latent.nope + latent.rope;
  config.rope_layout = RopeLayout::kInterleaved;
  return config;
}

ModelConfig V2Lite(const Width& width, const Latent& latent,
                   const Experts& experts, int64_t original_positions) {
  ModelConfig config = V2(width, latent, experts);
  AddYarn(40, original_positions, 0.707, &config);
  return config;
}

ModelConfig V2Large() {
  ModelConfig config = V2({102400, 5120, 12288, 60, 128, 128},
                          {1536, 512, 128, 64, 128}, {160, 2, 6, 1536, 1});
  AddYarn(40, 4096, 1, &config);
  config.n_group = 8;
  config.topk_group = 3;
  config.topk_method = TopkMethod::kGroupLimitedGreedy;
  config.routed_scaling_factor = 16;
  return config;
}

ModelConfig V3(const Width& width, const Latent& latent, const Experts& experts,
               int64_t n_group, int64_t original_positions) {
  ModelConfig config = V2(width, latent, experts);
  AddYarn(40, original_positions, 1, &config);
  config.model_type = "deepseek_v3";
  config.n_group = n_group;
  config.topk_group = n_group / 2;
  config.topk_method = TopkMethod::kNoauxTc;
  config.scoring_func = ScoringFunc::kSigmoid;
  config.norm_topk_prob = true;
  config.routed_scaling_factor = 2.5;
  return config;
}

void AddIndexer(int64_t heads, int64_t head_dim, int64_t topk,
                ModelConfig* config) {
  config->index_n_heads = heads;
  config->index_head_dim = head_dim;
  config->index_topk = topk;
}

ModelConfig V32(ModelConfig config, int64_t index_heads, int64_t index_head_dim,
                int64_t index_topk) {
  config.model_type = "deepseek_v32";
  AddIndexer(index_heads, index_head_dim, index_topk, &config);
  return config;
}

// All heads share one key, which is their value too.
Geometry V4(const Width& width, int64_t head_dim, int64_t rope, int64_t q_rank,
            const Experts& experts, V4Shape shape) {
  Geometry geometry;
  ModelConfig& config = geometry.config;
  config = Dense("deepseek_v4", width, 10000, 1e-6f, 1);
  AddExperts(experts, &config);
  AddYarn(16, 65536, 0, &config);
  config.head_dim = head_dim;
  config.qk_rope_head_dim = rope;
  config.q_lora_rank = q_rank;
  config.norm_topk_prob = true;
  // After the first layers, 4 and 128 in turn.
  for (int64_t l = std::ssize(shape.compress_ratios); l < width.layers; ++l) {
    shape.compress_ratios.push_back(l % 2 == 0 ? 4 : 128);
  }
  geometry.v4 = std::move(shape);
  return geometry;
}

Geometry V4Flash() {
  Geometry geometry =
      V4({129280, 4096, 2048, 43, 64, 1}, 512, 64, 1024, {256, 1, 6, 2048, 0},
         {.o_groups = 8,
          .o_lora_rank = 1024,
          .num_hash_layers = 3,
          .sliding_window = 128,
          .compress_ratios = {0, 0}});
  AddIndexer(64, 128, 512, &geometry.config);
  geometry.config.routed_scaling_factor = 1.5;
  return geometry;
}

Geometry V4Pro() {
  Geometry geometry =
      V4({129280, 7168, 3072, 61, 128, 1}, 512, 64, 1536, {384, 1, 6, 3072, 0},
         {.o_groups = 16,
          .o_lora_rank = 1024,
          .num_hash_layers = 3,
          .sliding_window = 128,
          .compress_ratios = {128, 128}});
  AddIndexer(64, 128, 1024, &geometry.config);
  geometry.config.routed_scaling_factor = 2.5;
  return geometry;
}

Geometry TinyV4() {
  Geometry geometry = V4({512, 256, 96, 4, 4, 1}, 64, 16, 96, {8, 1, 3, 96, 0},
                         {.o_groups = 2,
                          .o_lora_rank = 64,
                          .num_hash_layers = 1,
                          .sliding_window = 32,
                          .compress_ratios = {0, 4, 128, 4}});
  AddIndexer(4, 32, 8, &geometry.config);
  geometry.config.routed_scaling_factor = 1.5;
  return geometry;
}

ModelConfig SmolLm2() {
  ModelConfig config = Llama({49152, 576, 1536, 30, 9, 3}, 100000, 1e-5f, 8192);
  config.tie_word_embeddings = true;
  return config;
}

std::vector<Geometry> MakeGeometries() {
  std::vector<Geometry> all;
  const auto add = [&all](const char* name, Geometry geometry) {
    geometry.name = name;
    geometry.published_layers = geometry.config.num_hidden_layers;
    all.push_back(std::move(geometry));
  };
  const auto add_config = [&add](const char* name, ModelConfig config) {
    Geometry geometry;
    geometry.config = std::move(config);
    add(name, std::move(geometry));
  };
  const Latent large = {1536, 512, 128, 64, 128};
  const ModelConfig v3 = V3({129280, 7168, 18432, 61, 128, 128}, large,
                            {256, 1, 8, 2048, 3}, 8, 4096);
  const ModelConfig tiny_v3 = V3({512, 256, 512, 3, 4, 4}, {96, 64, 32, 16, 32},
                                 {16, 1, 4, 96, 1}, 4, 64);

  add_config("smollm2-135m", SmolLm2());
  add_config("llm-7b",
             Llama({102400, 4096, 11008, 30, 32, 32}, 10000, 1e-6f, 4096));
  add_config("llm-67b",
             Llama({102400, 8192, 22016, 95, 64, 8}, 10000, 1e-6f, 4096));
  add_config("r1-llama-8b", Llama3({128256, 4096, 14336, 32, 32, 8}, 8192));
  add_config("r1-llama-70b", Llama3({128256, 8192, 28672, 80, 64, 8}, 8192));
  add_config("r1-qwen-1.5b",
             Qwen2({151936, 1536, 8960, 28, 12, 2}, 10000, 1e-6f));
  add_config("r1-qwen-7b",
             Qwen2({152064, 3584, 18944, 28, 28, 4}, 10000, 1e-6f));
  add_config("r1-qwen-14b",
             Qwen2({152064, 5120, 13824, 48, 40, 8}, 1e6, 1e-5f));
  add_config("r1-qwen-32b",
             Qwen2({152064, 5120, 27648, 64, 40, 8}, 1e6, 1e-5f));
  add_config("r1-qwen3-8b", Qwen3({151936, 4096, 12288, 36, 32, 8}, 4));
  add_config("moe-16b",
             Moe({102400, 2048, 10944, 28, 16, 16}, {64, 2, 6, 1408, 1}, 4096));
  add_config("v2-lite",
             V2Lite({102400, 2048, 10944, 27, 16, 16}, {0, 512, 128, 64, 128},
                    {64, 2, 6, 1408, 1}, 4096));
  add_config("v2", V2Large());
  add_config("v3", v3);
  add_config("v32", V32(v3, 64, 128, 2048));
  add("v4-flash", V4Flash());
  add("v4-pro", V4Pro());
  add_config("tiny-llama", Llama3({512, 256, 512, 2, 4, 2}, 64));
  add_config("tiny-qwen2", Qwen2({512, 256, 512, 2, 4, 2}, 10000, 1e-6f));
  add_config("tiny-qwen3", Qwen3({512, 256, 512, 2, 4, 2}, 4));
  add_config("tiny-moe", Moe({512, 256, 512, 3, 4, 4}, {16, 2, 4, 96, 1}, 640));
  add_config("tiny-v2", V2Lite({512, 256, 512, 3, 4, 4}, {0, 64, 32, 16, 32},
                               {16, 2, 4, 96, 1}, 64));
  add_config("tiny-v3", tiny_v3);
  add_config("tiny-v32", V32(tiny_v3, 4, 32, 32));
  add("tiny-v4", TinyV4());
  return all;
}

}  // namespace

absl::StatusOr<Geometry> FindGeometry(std::string_view name) {
  std::string known;
  for (Geometry& geometry : MakeGeometries()) {
    if (geometry.name == name) return std::move(geometry);
    known += Concat({known.empty() ? "" : ", ", geometry.name});
  }
  return absl::InvalidArgumentError(
      Concat({"geometry: expected one of ", known, ", got ", Quoted(name)}));
}

std::vector<std::string> GeometryNames() {
  std::vector<std::string> names;
  for (const Geometry& geometry : MakeGeometries()) {
    names.push_back(geometry.name);
  }
  return names;
}

}  // namespace shoal
