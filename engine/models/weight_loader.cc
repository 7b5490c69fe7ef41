#include "engine/models/weight_loader.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/float_bits.h"

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
  return Pack(name, precision_);
}

std::unique_ptr<PackedMatrix> WeightLoader::ExactMatrix(
    const std::string& name) {
  return Pack(name, Precision::kExact);
}

std::unique_ptr<PackedMatrix> WeightLoader::Pack(const std::string& name,
                                                 Precision precision) {
  const WeightView weight = View(name);
  if (!status_.ok()) return nullptr;
  absl::StatusOr<std::unique_ptr<PackedMatrix>> packed =
      kernels_.Pack(weight, precision);
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

std::unique_ptr<HeadWeight> WeightLoader::PackHead(const float* values,
                                                   int64_t out, int64_t in) {
  if (!status_.ok()) return nullptr;
  auto head = std::make_unique<HeadWeight>();
  WeightView view;
  if (precision_ == Precision::kExact) {
    head->floats_.assign(values, values + out * in);
    view.data = ConstTensorView(head->floats_.data(), DType::kF32, {out, in});
  } else {
    head->halves_.resize(out * in);
    for (int64_t i = 0; i < out * in; ++i) {
      head->halves_[i] = F32ToBF16(values[i]);
    }
    view.data = ConstTensorView(head->halves_.data(), DType::kBF16, {out, in});
  }
  bytes_ += view.data.bytes();
  absl::StatusOr<std::unique_ptr<PackedMatrix>> packed =
      kernels_.Pack(view, precision_);
  if (!packed.ok()) {
    status_ = packed.status();
    return nullptr;
  }
  head->matrix_ = *std::move(packed);
  return head;
}

std::vector<float> WeightLoader::Floats(const std::string& name) {
  const WeightView view = View(name);
  if (!status_.ok()) return {};
  std::vector<float> values(view.data.num_elements());
  if (view.data.rank == 2) {  // may have scales
    for (int64_t row = 0; row < view.out_features(); ++row) {
      DequantizeWeightRow(view, row, values.data() + row * view.in_features());
    }
  } else {
    DequantizeRow(view.data.dtype, view.data.data, view.data.num_elements(),
                  values.data());
  }
  bytes_ += static_cast<int64_t>(values.size() * sizeof(float));
  return values;
}

std::vector<float> WeightLoader::OptionalFloats(const std::string& name) {
  return checkpoint_.Contains(name) ? Floats(name) : std::vector<float>();
}

}  // namespace shoal
