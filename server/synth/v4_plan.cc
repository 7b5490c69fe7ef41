// Tensors of deepseek_v4 in the releases' names, which have no "model." prefix,
// or in GGUF's.
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "engine/loading/deepseek_v4_architecture.h"
#include "engine/loading/load_error.h"
#include "kernels/check.h"
#include "server/synth/gguf_model.h"
#include "server/synth/model_plan.h"
#include "server/synth/router_skew.h"

namespace shoal {
namespace {

constexpr int64_t kFp4Run = 32;  // values of a row that share a scale

double SqrtSoftplus(double z) {
  return std::sqrt(z > 20 ? z : std::log1p(std::exp(z)));
}

class V4Planner {
 public:
  V4Planner(const Geometry& geometry, WeightFormat format, double router_skew)
      : config_(geometry.config),
        v4_(*geometry.v4),
        format_(format),
        router_{config_.n_routed_experts, config_.num_experts_per_tok,
                router_skew} {}

  std::vector<PlannedTensor> Plan() {
    const int64_t hidden = config_.hidden_size;
    const int64_t streams = v4_.hc_mult;
    Put("embed.weight", MatrixType(hidden), {config_.vocab_size, hidden}, 0, 1);
    for (int64_t l = 0; l < config_.num_hidden_layers; ++l) {
      const std::string layer = Concat({"layers.", l, "."});
      AddAttention(layer + "attn.", v4_.compress_ratios[l]);
      AddExperts(layer + "ffn.", l < v4_.num_hash_layers);
      AddNorm(layer + "attn_norm", hidden);
      AddNorm(layer + "ffn_norm", hidden);
      for (const char* part : {"hc_attn_", "hc_ffn_"}) {
        AddMixer(layer + part, (2 + streams) * streams, 3);
      }
    }
    AddMixer("hc_head_", streams, 1);
    AddNorm("norm", hidden);
    Put("head.weight", MatrixType(hidden), {config_.vocab_size, hidden}, 0,
        1 / std::sqrt(hidden));
    if (IsGguf(format_)) {
      for (PlannedTensor& tensor : tensors_) {
        tensor.name = GgufTensorName(DeepseekV4TensorName(tensor.name));
      }
    }
    return std::move(tensors_);
  }

 private:
  void Put(std::string name, DType dtype, std::vector<int64_t> shape,
           double mean, double stddev) {
    tensors_.push_back(
        NormalTensor(std::move(name), dtype, std::move(shape), mean, stddev));
  }
  DType WideType() const {
    return IsGguf(format_) ? DType::kF32 : DType::kBF16;
  }
  // Of what no release has in FP8, GGUF files in blocks.
  DType MatrixType(int64_t in) const {
    return IsGguf(format_) ? GgufMatrixType(format_, in) : DType::kBF16;
  }
  void AddNorm(const std::string& module, int64_t size) {
    Put(module + ".weight", WideType(), {size}, 1, 0.05);
  }
  // Never quantised.
  void AddWide(const std::string& module, int64_t out, int64_t in) {
    Put(module + ".weight", WideType(), {out, in}, 0, 1 / std::sqrt(in));
  }
  void AddMatrix(const std::string& module, int64_t out, int64_t in) {
    if (format_ != WeightFormat::kFp8) {
      Put(module + ".weight", MatrixType(in), {out, in}, 0, 1 / std::sqrt(in));
      return;
    }
    AddScaledMatrix(module,
                    {DType::kF8E4M3, kFp8Tile, kFp8Tile, DType::kF8E8M0,
                     ".scale", /*power_of_two=*/true},
                    out, in, 1 / std::sqrt(in), &tensors_);
  }
  // The first expert's stands for all where they are one tensor.
  void AddExpertMatrix(const std::string& module, int64_t out, int64_t in) {
    if (format_ != WeightFormat::kFp8) {
      AddMatrix(module, out, in);
      if (IsGguf(format_)) {
        std::vector<int64_t>& shape = tensors_.back().shape;
        shape.insert(shape.begin(), config_.n_routed_experts);
      }
      return;
    }
    AddScaledMatrix(module,
                    {DType::kF4E2M1, 1, kFp4Run, DType::kF8E8M0, ".scale",
                     /*power_of_two=*/true},
                    out, in, 1 / std::sqrt(in), &tensors_);
  }

  // Weights that mix the residual streams: near even shares, which vary a
  // little with the token.
  void AddMixer(const std::string& prefix, int64_t outputs, int64_t scales) {
    const int64_t inputs = v4_.hc_mult * config_.hidden_size;
    Put(prefix + "fn", DType::kF32, {outputs, inputs}, 0,
        1 / std::sqrt(inputs));
    Put(prefix + "base", DType::kF32, {outputs}, 0, 0.5);
    Put(prefix + "scale", DType::kF32, {scales}, 0.5, 0.1);
  }

  void AddCompressor(const std::string& prefix, int64_t ratio, int64_t width) {
    const int64_t channels = (ratio == 4 ? 2 : 1) * width;
    AddWide(prefix + "wkv", channels, config_.hidden_size);
    AddWide(prefix + "wgate", channels, config_.hidden_size);
    Put(prefix + "ape", DType::kF32, {ratio, channels}, 0, 0.5);
    AddNorm(prefix + "norm", width);
  }

  void AddAttention(const std::string& prefix, int64_t ratio) {
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.num_attention_heads * config_.head_dim;
    const int64_t out_rows = v4_.o_groups * v4_.o_lora_rank;
    AddMatrix(prefix + "wq_a", config_.q_lora_rank, hidden);
    AddNorm(prefix + "q_norm", config_.q_lora_rank);
    AddMatrix(prefix + "wq_b", width, config_.q_lora_rank);
    AddMatrix(prefix + "wkv", config_.head_dim, hidden);
    AddNorm(prefix + "kv_norm", config_.head_dim);
    AddMatrix(prefix + "wo_a", out_rows, width / v4_.o_groups);
    AddMatrix(prefix + "wo_b", hidden, out_rows);
    Put(prefix + "attn_sink", DType::kF32, {config_.num_attention_heads}, 0, 1);
    if (ratio == 0) return;
    AddCompressor(prefix + "compressor.", ratio, config_.head_dim);
    if (ratio != 4) return;
    const std::string indexer = prefix + "indexer.";
    AddMatrix(indexer + "wq_b", config_.index_n_heads * config_.index_head_dim,
              config_.q_lora_rank);
    AddWide(indexer + "weights_proj", config_.index_n_heads, hidden);
    AddCompressor(indexer + "compressor.", 4, config_.index_head_dim);
  }

  void AddExperts(const std::string& prefix, bool is_hashed) {
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.moe_intermediate_size;
    AddWide(prefix + "gate", config_.n_routed_experts, hidden);
    if (is_hashed) {
      AddHashTable(prefix + "gate.tid2eid");
    } else {
      const RouterShape router = router_;
      tensors_.push_back(FloatTensor(
          prefix + "gate.bias", DType::kF32, {config_.n_routed_experts},
          [router](SynthRandom& random) {
            return CorrectionBiases(router, SqrtSoftplus, random);
          }));
    }
    const int64_t tensors = IsGguf(format_) ? 1 : config_.n_routed_experts;
    for (int64_t e = 0; e < tensors; ++e) {
      const std::string expert = Concat({prefix, "experts.", e, "."});
      AddExpertMatrix(expert + "w1", width, hidden);
      AddExpertMatrix(expert + "w2", hidden, width);
      AddExpertMatrix(expert + "w3", width, hidden);
    }
    const std::string shared = prefix + "shared_experts.";
    const int64_t shared_width = config_.n_shared_experts * width;
    AddMatrix(shared + "w1", shared_width, hidden);
    AddMatrix(shared + "w2", hidden, shared_width);
    AddMatrix(shared + "w3", shared_width, hidden);
  }

  // Each token's experts, all different, drawn by their shares.
  void AddHashTable(const std::string& name) {
    const RouterShape router = router_;
    const int64_t tokens = config_.vocab_size;
    tensors_.push_back(
        {name,
         DType::kI64,
         {tokens, router.num_chosen},
         [router, tokens](SynthRandom& random, std::vector<uint8_t>* bytes) {
           FillHashTable(router, tokens, random, bytes);
         }});
  }

  static void FillHashTable(const RouterShape& router, int64_t tokens,
                            SynthRandom& random, std::vector<uint8_t>* bytes) {
    // Systematic sampling: experts lie one after another on a line, each as
    // long as its share; marks at distance 1 from a random start hit each at
    // most once, with just that probability.
    std::vector<double> shares = ExpertShares(router);
    for (int64_t i = router.num_experts - 1; i > 0; --i) {
      std::swap(shares[i], shares[random.Below(i + 1)]);
    }
    bytes->resize(tokens * router.num_chosen * sizeof(int64_t));
    uint8_t* out = bytes->data();
    for (int64_t t = 0; t < tokens; ++t) {
      const double start = random.Uniform();
      int64_t chosen = 0;
      double end = 0;
      for (int64_t e = 0; e < router.num_experts; ++e) {
        end += shares[e];
        const int64_t left = router.num_experts - e;
        // The second part makes up for sums that rounding left short.
        if (chosen < router.num_chosen &&
            (static_cast<double>(chosen) + start < end ||
             left == router.num_chosen - chosen)) {
          std::memcpy(out, &e, sizeof(e));
          out += sizeof(e);
          ++chosen;
        }
      }
      SHOAL_CHECK(chosen == router.num_chosen);
    }
  }

  const ModelConfig& config_;
  const V4Shape& v4_;
  const WeightFormat format_;
  const RouterShape router_;
  std::vector<PlannedTensor> tensors_;
};

}  // namespace

std::vector<PlannedTensor> PlanV4Tensors(const Geometry& geometry,
                                         WeightFormat format,
                                         double router_skew) {
  SHOAL_CHECK(geometry.v4.has_value());
  return V4Planner(geometry, format, router_skew).Plan();
}

}  // namespace shoal
