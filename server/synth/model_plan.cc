#include "server/synth/model_plan.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "engine/loading/architecture.h"
#include "engine/loading/load_error.h"
#include "kernels/check.h"
#include "server/synth/gguf_model.h"
#include "server/synth/router_skew.h"
#include "server/synth/tensor_filler.h"

namespace shoal {
namespace {

// Codes have this deviation, or up to 2.5 times as much under scales that are
// powers of two; the largest code is 448 in FP8 and 6 in FP4.
constexpr double kFp8CodeDeviation = 40;
constexpr double kFp4CodeDeviation = 1;
// Root mean square of what the scales of a matrix vary by.
constexpr double kPowerOfTwoVariation = 0.790569;  // 1 or 1/2
constexpr double kUniformVariation = 1.010363;     // 3/4 to 5/4

double LowerPowerOfTwo(double value) {
  return std::exp2(std::floor(std::log2(value)));
}

void StoreScale(double value, DType dtype, std::vector<uint8_t>* bytes) {
  if (dtype == DType::kF8E8M0) {
    const double exponent = std::floor(std::log2(value));
    bytes->push_back(static_cast<uint8_t>(exponent + 127));
    return;
  }
  const auto narrow = static_cast<float>(value);
  const size_t at = bytes->size();
  bytes->resize(at + sizeof(float));
  EncodeValues(DType::kF32, {&narrow, 1}, bytes->data() + at);
}

// Plans one tensor after another of the models that engine/loading knows.
class Planner {
 public:
  Planner(const Geometry& geometry, WeightFormat format, double router_skew)
      : geometry_(geometry),
        config_(geometry.config),
        format_(format),
        router_{config_.n_routed_experts, config_.num_experts_per_tok,
                router_skew} {}

  std::vector<PlannedTensor> Plan() {
    ModelConfig stored = config_;
    stored.kv_b_split = IsGguf(format_) && config_.kv_lora_rank > 0;
    absl::StatusOr<const Architecture*> architecture =
        FindArchitecture(geometry_.name, config_.model_type);
    SHOAL_CHECK(architecture.ok());
    std::vector<TensorSpec> specs;
    (*architecture)->add_tensors(stored, &specs);
    for (const TensorSpec& spec : specs) Add(spec);
    if (IsGguf(format_)) AddRopeFactors(config_, &tensors_);
    return std::move(tensors_);
  }

 private:
  // Without a bias to correct it, a router sees its experts' popularity in a
  // direction that all embeddings share.
  bool SkewsRows() const {
    return router_.exponent > 0 && config_.topk_method != TopkMethod::kNoauxTc;
  }

  double StddevOf(const TensorSpec& spec) const {
    const std::string& name = spec.name;
    const auto inputs = static_cast<double>(spec.shape.back());
    if (name == "model.embed_tokens.weight") {
      if (config_.tie_word_embeddings) return 1 / std::sqrt(inputs);
      return SkewsRows() ? kOwnDeviation : 1;
    }
    // Keys are stored transposed; both multiply the latent.
    if (name.ends_with("k_b_proj.weight")) {
      return 1 / std::sqrt(config_.kv_lora_rank);
    }
    // What layers add would hide the shared direction from later routers.
    const bool is_output =
        name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
    if (is_output && SkewsRows()) {
      const auto blocks = static_cast<double>(2 * geometry_.published_layers);
      return 0.5 / std::sqrt(inputs * blocks);
    }
    return 1 / std::sqrt(inputs);
  }

  DType MatrixType(const TensorSpec& spec) const {
    return IsGguf(format_) ? GgufMatrixType(format_, spec.shape.back())
                           : DType::kBF16;
  }

  // Matrices that no release stores in FP8.
  static bool StaysWide(std::string_view name) {
    return name == "model.embed_tokens.weight" || name == "lm_head.weight" ||
           name.ends_with("indexer.weights_proj.weight");
  }

  void Add(const TensorSpec& spec) {
    const DType floats = IsGguf(format_) ? DType::kF32 : DType::kBF16;
    const std::string& name = spec.name;
    if (name.ends_with("e_score_correction_bias")) {
      const RouterShape router = router_;
      Put(spec, FloatTensor(
                    "", DType::kF32, spec.shape, [router](SynthRandom& random) {
                      return CorrectionBiases(
                          router, [](double z) { return 1 / (1 + exp(-z)); },
                          random);
                    }));
    } else if (name.ends_with("norm.weight")) {
      Put(spec, NormalTensor("", floats, spec.shape, 1, 0.05));
    } else if (spec.kind == TensorSpec::Kind::kFloats) {
      Put(spec, NormalTensor("", floats, spec.shape, 0, 0.1));
    } else if (name.ends_with("mlp.gate.weight")) {
      if (SkewsRows()) {
        const RouterShape router = router_;
        const int64_t width = spec.shape.back();
        Put(spec, FloatTensor("", floats, spec.shape,
                              [router, width](SynthRandom& random) {
                                return SkewedRouterRows(router, width, random);
                              }));
      } else {
        Put(spec, NormalTensor("", floats, spec.shape, 0, StddevOf(spec)));
      }
    } else if (format_ == WeightFormat::kFp8 && !StaysWide(name)) {
      const ScaledLayout layout = {DType::kF8E4M3,
                                   kFp8Tile,
                                   kFp8Tile,
                                   DType::kF32,
                                   ".weight_scale_inv",
                                   HasPowerOfTwoScales(config_.model_type)};
      const std::string module = name.substr(0, name.rfind('.'));
      AddScaledMatrix(module, layout, spec.shape[0], spec.shape[1],
                      StddevOf(spec), &tensors_);
    } else {
      const bool shared = SkewsRows() && name == "model.embed_tokens.weight";
      Put(spec, NormalTensor("", MatrixType(spec), spec.shape,
                             shared ? kSharedMean : 0, StddevOf(spec)));
    }
  }

  // Stores a tensor under the container's name and shape.
  void Put(const TensorSpec& spec, PlannedTensor tensor) {
    tensor.name = spec.name;
    if (IsGguf(format_) && !ToGgufTensor(config_, &tensor)) return;
    tensors_.push_back(std::move(tensor));
  }

  const Geometry& geometry_;
  const ModelConfig& config_;
  const WeightFormat format_;
  const RouterShape router_;
  std::vector<PlannedTensor> tensors_;
};

}  // namespace

absl::StatusOr<WeightFormat> ParseWeightFormat(std::string_view name) {
  if (name == "bf16") return WeightFormat::kBF16;
  if (name == "fp8") return WeightFormat::kFp8;
  if (name == "q8_0") return WeightFormat::kQ8_0;
  if (name == "q4_0") return WeightFormat::kQ4_0;
  if (name == "q4_k") return WeightFormat::kQ4_K;
  return absl::InvalidArgumentError(Concat(
      {"format: expected bf16, fp8, q8_0, q4_0 or q4_k, got ", Quoted(name)}));
}

DType GgufMatrixType(WeightFormat format, int64_t inputs) {
  const DType wanted = format == WeightFormat::kQ8_0   ? DType::kQ8_0
                       : format == WeightFormat::kQ4_0 ? DType::kQ4_0
                                                       : DType::kQ4_K;
  for (const DType dtype : {wanted, DType::kQ4_0}) {
    if (inputs % GetDTypeInfo(dtype).block_elements == 0) return dtype;
  }
  return DType::kBF16;
}

bool HasPowerOfTwoScales(std::string_view model_type) {
  return model_type == "deepseek_v32" || model_type == "deepseek_v4";
}

PlannedTensor NormalTensor(std::string name, DType dtype,
                           std::vector<int64_t> shape, double mean,
                           double stddev) {
  return {std::move(name), dtype, std::move(shape),
          NormalFill{static_cast<float>(mean), static_cast<float>(stddev)}};
}

PlannedTensor FloatTensor(
    std::string name, DType dtype, std::vector<int64_t> shape,
    std::function<std::vector<float>(SynthRandom&)> values) {
  return {
      std::move(name), dtype, std::move(shape),
      [dtype, values = std::move(values)](SynthRandom& random,
                                          std::vector<uint8_t>* bytes) {
        const std::vector<float> made = values(random);
        bytes->resize(static_cast<size_t>(DTypeBytes(dtype, std::ssize(made))));
        EncodeValues(dtype, made, bytes->data());
      }};
}

void AddScaledMatrix(const std::string& module, const ScaledLayout& layout,
                     int64_t out, int64_t in, double stddev,
                     std::vector<PlannedTensor>* tensors) {
  const double code_deviation =
      layout.dtype == DType::kF4E2M1 ? kFp4CodeDeviation : kFp8CodeDeviation;
  const bool power_of_two = layout.power_of_two;
  const double scale = power_of_two ? LowerPowerOfTwo(stddev / code_deviation)
                                    : stddev / code_deviation;
  const double variation =
      power_of_two ? kPowerOfTwoVariation : kUniformVariation;
  tensors->push_back(NormalTensor(module + ".weight", layout.dtype, {out, in},
                                  0, stddev / (scale * variation)));
  const int64_t rows = (out + layout.scale_rows - 1) / layout.scale_rows;
  const int64_t cols = (in + layout.scale_cols - 1) / layout.scale_cols;
  const DType dtype = layout.scale_dtype;
  // Neighbours differ, so that a scale taken from the wrong tile shows.
  tensors->push_back({module + layout.scale_suffix,
                      dtype,
                      {rows, cols},
                      [=](SynthRandom& random, std::vector<uint8_t>* bytes) {
                        for (int64_t i = 0; i < rows * cols; ++i) {
                          const double factor =
                              power_of_two ? (random.Below(2) == 0 ? 1 : 0.5)
                                           : 0.75 + 0.5 * random.Uniform();
                          StoreScale(scale * factor, dtype, bytes);
                        }
                      }});
}

std::vector<PlannedTensor> PlanTensors(const Geometry& geometry,
                                       WeightFormat format,
                                       double router_skew) {
  if (geometry.v4.has_value()) {
    return PlanV4Tensors(geometry, format, router_skew);
  }
  return Planner(geometry, format, router_skew).Plan();
}

}  // namespace shoal
