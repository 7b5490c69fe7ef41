// A matrix on the device, as it is stored in the checkpoint.
#pragma once

#include <memory>

#include "kernels/cuda/linear.h"
#include "kernels/kernel_table.h"

namespace shoal::cuda {

class CudaMatrix : public PackedMatrix {
 public:
  // `data` and `scales` (or nullptr) hold the stored bytes.
  CudaMatrix(const WeightView& weight, Precision precision,
             std::unique_ptr<DeviceBuffer> data,
             std::unique_ptr<DeviceBuffer> scales)
      : precision_(precision),
        data_(std::move(data)),
        scales_(std::move(scales)) {
    shape_.dtype = weight.data.dtype;
    shape_.out_features = out_features_ = weight.out_features();
    shape_.in_features = in_features_ = weight.in_features();
    shape_.aligned = true;
    shape_.fast = precision == Precision::kFast && shape_.dtype != DType::kF32;
    if (scales_ != nullptr) {
      shape_.scale_rows = weight.scale_rows;
      shape_.scale_cols = weight.scale_cols;
      shape_.scales_are_e8m0 = weight.scales.dtype == DType::kF8E8M0;
    }
    source_dtype_ = weight.data.dtype;
    borrows_source_ = false;
    owned_bytes_ = data_->bytes() + (scales_ != nullptr ? scales_->bytes() : 0);
  }

  const MatrixShape& shape() const { return shape_; }
  Precision precision() const { return precision_; }
  WeightPointers pointers() const {
    return {static_cast<const uint8_t*>(data_->data()),
            scales_ != nullptr ? static_cast<const uint8_t*>(scales_->data())
                               : nullptr};
  }

 private:
  MatrixShape shape_;
  const Precision precision_;
  const std::unique_ptr<DeviceBuffer> data_;
  const std::unique_ptr<DeviceBuffer> scales_;
};

inline const CudaMatrix& AsCuda(const PackedMatrix* matrix) {
  return *static_cast<const CudaMatrix*>(matrix);
}

}  // namespace shoal::cuda
