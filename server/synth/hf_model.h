// A synthetic model's config.json: the counterpart of
// engine/loading/hf_config.h.
#pragma once

#include <string>

#include "server/synth/geometry.h"
#include "server/synth/model_plan.h"

namespace shoal {

// REQUIRES: !IsGguf(format).
std::string HfConfigJson(const Geometry& geometry, WeightFormat format);

}  // namespace shoal
