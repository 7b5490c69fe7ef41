// The tensors of a synthetic model: names, element types, shapes and values,
// for one container. Weights are normal with deviation 1/sqrt(inputs), norms
// near 1, so that activations keep their size from layer to layer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/synth/geometry.h"
#include "server/synth/planned_tensor.h"

namespace shoal {

enum class WeightFormat : uint8_t {
  kBF16,  // Hugging Face folder
  kFp8,   // folder; F8_E4M3 where the releases have it, V4's experts in FP4
  kQ8_0,  // GGUF from here on
  kQ4_0,
  kQ4_K,
};

// InvalidArgument naming the known ones: "bf16", "fp8", "q8_0", "q4_0", "q4_k".
absl::StatusOr<WeightFormat> ParseWeightFormat(std::string_view name);

inline bool IsGguf(WeightFormat format) {
  return format >= WeightFormat::kQ8_0;
}

// Edge of the square tiles of FP8 weights that share a scale.
inline constexpr int64_t kFp8Tile = 128;
// Whether the scales of a release of this model_type are powers of two.
bool HasPowerOfTwoScales(std::string_view model_type);

// Element type of a GGUF matrix with rows of `inputs` values: `format`'s, or
// smaller blocks for rows that it does not divide. REQUIRES: IsGguf(format).
DType GgufMatrixType(WeightFormat format, int64_t inputs);

// In the order in which they are to be stored. `router_skew`: exponent of
// RouterShape; REQUIRES: 0 without routed experts.
std::vector<PlannedTensor> PlanTensors(const Geometry& geometry,
                                       WeightFormat format, double router_skew);

// As PlanTensors, of model_type deepseek_v4. REQUIRES: geometry.v4.
std::vector<PlannedTensor> PlanV4Tensors(const Geometry& geometry,
                                         WeightFormat format,
                                         double router_skew);

// --- Parts of both plans ---

PlannedTensor NormalTensor(std::string name, DType dtype,
                           std::vector<int64_t> shape, double mean,
                           double stddev);
// Float values in `dtype`, which may be F32 or BF16.
PlannedTensor FloatTensor(
    std::string name, DType dtype, std::vector<int64_t> shape,
    std::function<std::vector<float>(SynthRandom&)> values);
// How FP8 and FP4 matrices and the scales beside them are stored.
struct ScaledLayout {
  DType dtype;                     // F8_E4M3 or F4_E2M1
  int64_t scale_rows, scale_cols;  // of the tile that shares a scale
  DType scale_dtype;               // F32 or F8_E8M0
  const char* scale_suffix;        // replaces ".weight" in the scales' name
  bool power_of_two;               // scales
};
// Appends MODULE.weight [out, in] of deviation `stddev` and its scales.
void AddScaledMatrix(const std::string& module, const ScaledLayout& layout,
                     int64_t out, int64_t in, double stddev,
                     std::vector<PlannedTensor>* tensors);

}  // namespace shoal
