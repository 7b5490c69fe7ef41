// TensorView borrows a dense row-major array: pointer, element type, shape. It
// owns nothing and knows no device; the kernel table that made the memory says
// where it lies. ConstTensorView is the read-only form; a TensorView converts
// to it.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/dtype.h"

namespace shoal {

inline constexpr int kMaxRank = 4;

template <typename Pointer>
struct BasicTensorView {
  Pointer data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape = {0, 0, 0, 0};  // in elements

  BasicTensorView() = default;
  BasicTensorView(Pointer data, DType dtype,
                  std::initializer_list<int64_t> dims)
      : data(data), dtype(dtype), rank(static_cast<int>(dims.size())) {
    SHOAL_CHECK(dims.size() <= kMaxRank);
    int i = 0;
    for (int64_t dim : dims) shape[i++] = dim;
  }

  bool empty() const { return data == nullptr; }
  int64_t dim(int i) const { return shape[i]; }
  // Product of all dimensions; 1 for a scalar (rank 0).
  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  int64_t bytes() const { return DTypeBytes(dtype, num_elements()); }

  // The data as plain T. REQUIRES: T is the C++ type of `dtype`'s element.
  template <typename T>
  auto as() const {
    if constexpr (std::is_const_v<std::remove_pointer_t<Pointer>>) {
      return static_cast<const T*>(data);
    } else {
      return static_cast<T*>(data);
    }
  }
};

struct ConstTensorView : BasicTensorView<const void*> {
  using BasicTensorView::BasicTensorView;
};

struct TensorView : BasicTensorView<void*> {
  using BasicTensorView::BasicTensorView;
  operator ConstTensorView() const {  // NOLINT: widening to read-only
    ConstTensorView view;
    view.data = data;
    view.dtype = dtype;
    view.rank = rank;
    view.shape = shape;
    return view;
  }
};

}  // namespace shoal
