#include "engine/models/weight_loader.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/quant/dequantize.h"

namespace shoal {

WeightView WeightLoader::View(const std::string& name) {
  if (!status_.ok()) return {};
  absl::StatusOr<WeightView> view = checkpoint_.Find(name);
  if (!view.ok()) {
    status_ = view.status();
    return {};
  }
  return *view;
}

std::unique_ptr<PackedMatrix> WeightLoader::Matrix(const std::string& name) {
  const WeightView view = View(name);
  if (!status_.ok()) return nullptr;
  return Pack(view, name);
}

std::unique_ptr<PackedMatrix> WeightLoader::Pack(const WeightView& weight,
                                                 const std::string& name) {
  if (!status_.ok()) return nullptr;
  absl::StatusOr<std::unique_ptr<PackedMatrix>> packed =
      kernels_.Pack(weight, precision_);
  if (!packed.ok()) {
    status_ = absl::Status(packed.status().code(),
                           absl::StrCat(name, ": ", packed.status().message()));
    return nullptr;
  }
  bytes_ += (*packed)->owned_bytes();
  if ((*packed)->borrows_source()) {
    bytes_ += weight.data.bytes();
  } else {
    checkpoint_.DropPages(weight.data);
  }
  return *std::move(packed);
}

std::vector<float> WeightLoader::Floats(const std::string& name) {
  const WeightView view = View(name);
  if (!status_.ok()) return {};
  std::vector<float> values(view.data.num_elements());
  DequantizeRow(view.data.dtype, view.data.data, view.data.num_elements(),
                values.data());
  bytes_ += static_cast<int64_t>(values.size() * sizeof(float));
  return values;
}

std::vector<float> WeightLoader::OptionalFloats(const std::string& name) {
  return checkpoint_.Contains(name) ? Floats(name) : std::vector<float>();
}

}  // namespace shoal
