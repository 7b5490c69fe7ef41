// Dense products of many rows by cuBLASLt: of BF16 weights, and of FP8 weights
// with scales of 128×128 on the tensor cores' FP8, for which the rows become
// FP8 with a scale per 128 neighbours, as DeepSeek's own inference code has it.
//
// Its order of sums is the library's and depends on how many rows there are, so
// that a row's result is no longer the same whatever the batch: it is for those
// who ask for that (CudaOptions::batch_invariant).
// Source: cuBLAS 13.1, "cublasLtMatmul()" and "Narrow precision data types".
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/cublaslt_api.h"
#include "kernels/cuda/linear.h"

namespace shoal::cuda {

class DenseGemm {
 public:
  // Of the context's device and stream; `context` must outlive it. As
  // LoadCublasLt(); Internal where the library or the device fails.
  static absl::StatusOr<std::unique_ptr<DenseGemm>> Open(
      LaunchContext& context);
  ~DenseGemm();
  DenseGemm(const DenseGemm&) = delete;
  DenseGemm& operator=(const DenseGemm&) = delete;

  // Queues the product's first rows and returns how many they are: 0 where it
  // is none for the library, or one that the library has no algorithm for.
  // `rounded` is the input as the last product of the same rows left it. Shows
  // failures in the context.
  int64_t Run(const GroupedProduct& product, RoundedInput& rounded);

 private:
  // What an algorithm is chosen for, once. Alignments in bytes.
  struct Shape {
    DType dtype;
    int64_t features, num_rows, width, in_stride, out_stride;
    bool accumulate, biased;
    uint32_t weight_alignment, out_alignment;

    auto operator<=>(const Shape&) const = default;
  };
  struct Plan {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t weights = nullptr, rows = nullptr, out = nullptr;
    cublasLtMatmulAlgo_t algorithm;
    bool possible = false;
  };

  DenseGemm(LaunchContext& context, const CublasLtApi& api)
      : context_(context), api_(api) {}
  const Plan& PlanOf(const Shape& shape);
  void Describe(const Shape& shape, Plan* plan);
  void Choose(const Shape& shape, Plan* plan);
  void DropPlans();
  template <typename T>
  void Set(const Plan& plan, cublasLtMatmulDescAttributes_t attribute, T value);
  bool Check(cublasStatus_t status);

  LaunchContext& context_;
  const CublasLtApi api_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Shape, Plan> plans_;
};

}  // namespace shoal::cuda
