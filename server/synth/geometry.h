// Published model shapes by short name, and tiny ones of the same architectures
// for tests. Multi-token prediction layers are left out of all of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loading/model_config.h"

namespace shoal {

// Of every deepseek_v4 published.
inline constexpr int kV4SinkhornIterations = 20;
inline constexpr double kV4HcEps = 1e-6;
inline constexpr float kV4SwigluLimit = 10;

// What deepseek_v4 has beyond ModelConfig's fields; names of its config.json.
struct V4Shape {
  int64_t o_groups = 0;
  int64_t o_lora_rank = 0;
  int64_t num_hash_layers = 0;
  int64_t sliding_window = 0;
  std::vector<int64_t> compress_ratios;  // one a layer: 0, 4 or 128
  int64_t compress_rope_theta = 160000;
  int64_t hc_mult = 4;
};

struct Geometry {
  std::string name;
  ModelConfig config;
  std::optional<V4Shape> v4;  // of model_type deepseek_v4
  // As published, whatever config says after layers were left out.
  int64_t published_layers = 0;
};

// InvalidArgument naming the known ones.
absl::StatusOr<Geometry> FindGeometry(std::string_view name);

// In the order of the table.
std::vector<std::string> GeometryNames();

}  // namespace shoal
