#include "kernels/cuda/dense_gemm.h"

#include "absl/status/status.h"

namespace shoal::cuda {
namespace {

// What cuBLAS asks for on Hopper ("cublasSetWorkspace()").
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// Chunks of prompts have any length; a plan is some hundred bytes.
constexpr size_t kMostPlans = 1024;
// FP8: scales of weights and activations are per 128, rows of the former's lie
// 16 bytes apart or a multiple of that, and so do columns of the latter's.
constexpr int64_t kScaleBlock = 128;
constexpr int64_t kWidthOfFP8 = 4 * kScaleBlock;
constexpr int64_t kRowsOfFP8 = 16;
constexpr uint32_t kMostAligned = 256;

uint32_t AlignmentOf(const void* data) {
  const auto at = reinterpret_cast<uintptr_t>(data) | kMostAligned;
  return static_cast<uint32_t>(at & -at);
}

bool IsForLibrary(const GroupedProduct& p) {
  const MatrixShape& shape = p.shape;
  if (!NeedsRoundedInput(p) || HasOwnRows(p) || p.groups != nullptr ||
      !shape.aligned || shape.out_features % 16 != 0 || p.out_stride % 4 != 0 ||
      AlignmentOf(p.out) < 16) {
    return false;
  }
  if (shape.dtype == DType::kBF16) return shape.in_features % 8 == 0;
  return shape.dtype == DType::kF8E4M3 && shape.scale_rows == kScaleBlock &&
         shape.scale_cols == kScaleBlock &&
         shape.in_features % kWidthOfFP8 == 0 && p.bias == nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DenseGemm>> DenseGemm::Open(
    LaunchContext& context) {
  const absl::StatusOr<CublasLtApi> api = LoadCublasLt();
  if (!api.ok()) return api.status();
  std::unique_ptr<DenseGemm> gemm(new DenseGemm(context, *api));
  context.Begin("DenseGemm");
  if (!gemm->Check(api->create(&gemm->handle_)) ||
      !context.Check(cudaMalloc(&gemm->workspace_, kWorkspaceBytes))) {
    return absl::InternalError(context.ErrorText());
  }
  return gemm;
}

DenseGemm::~DenseGemm() {
  cudaStreamSynchronize(context_.stream());
  DropPlans();
  cudaFree(workspace_);
  if (handle_ != nullptr) api_.destroy(handle_);
}

bool DenseGemm::Check(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return true;
  context_.Begin("cuBLASLt");
  return context_.Check(cudaErrorUnknown);
}

template <typename T>
void DenseGemm::Set(const Plan& plan, cublasLtMatmulDescAttributes_t attribute,
                    T value) {
  Check(api_.desc_set(plan.desc, attribute, &value, sizeof(value)));
}

int64_t DenseGemm::Run(const GroupedProduct& product, RoundedInput& rounded) {
  if (context_.error() != cudaSuccess || !IsForLibrary(product)) return 0;
  const bool fp8 = product.shape.dtype == DType::kF8E4M3;
  GroupedProduct part = product;
  if (fp8) part.num_rows = part.num_rows / kRowsOfFP8 * kRowsOfFP8;
  const int64_t width = part.shape.in_features;
  const Plan& plan =
      PlanOf({part.shape.dtype, part.shape.out_features, part.num_rows, width,
              fp8 ? width : RoundedWidth(width), part.out_stride,
              part.accumulate, part.bias != nullptr, AlignmentOf(part.one.data),
              AlignmentOf(part.out)});
  if (!plan.possible) return 0;
  const InputForm form = fp8 ? InputForm::kE4M3 : InputForm::kWidth;
  if (rounded.data == nullptr || rounded.form != form) {
    rounded = RoundInput(context_, part, form);
  }
  if (part.bias != nullptr) {
    Set(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, part.bias);
  }
  if (fp8) {
    Set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, part.one.scales);
    Set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, rounded.scales);
  }
  const float alpha = 1, beta = part.accumulate ? 1 : 0;
  if (context_.error() != cudaSuccess) return 0;
  Check(api_.matmul(handle_, plan.desc, &alpha, part.one.data, plan.weights,
                    rounded.data, plan.rows, &beta, part.out, plan.out,
                    part.out, plan.out, &plan.algorithm, workspace_,
                    kWorkspaceBytes, context_.stream()));
  return part.num_rows;
}

const DenseGemm::Plan& DenseGemm::PlanOf(const Shape& shape) {
  if (plans_.size() >= kMostPlans) DropPlans();
  const auto [entry, is_new] = plans_.try_emplace(shape);
  Plan& plan = entry->second;
  if (is_new) {
    Describe(shape, &plan);
    if (context_.error() == cudaSuccess) Choose(shape, &plan);
  }
  return plan;
}

// To a library of columns the rows of weights, inputs and results are columns:
// out = weightsᵀ · rows.
void DenseGemm::Describe(const Shape& shape, Plan* plan) {
  const bool fp8 = shape.dtype == DType::kF8E4M3;
  const cudaDataType_t type = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  if (!Check(api_.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)) ||
      !Check(api_.layout_create(&plan->weights, type, shape.width,
                                shape.features, shape.width)) ||
      !Check(api_.layout_create(&plan->rows, type, shape.width, shape.num_rows,
                                shape.in_stride)) ||
      !Check(api_.layout_create(&plan->out, CUDA_R_32F, shape.features,
                                shape.num_rows, shape.out_stride))) {
    return;
  }
  Set(*plan, CUBLASLT_MATMUL_DESC_TRANSA, int32_t{CUBLAS_OP_T});
  if (shape.biased) {
    Set(*plan, CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_BIAS});
    Set(*plan, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t{CUDA_R_32F});
  }
  if (fp8) {
    Set(*plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
        int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F});
    Set(*plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
        int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F});
  }
}

void DenseGemm::Choose(const Shape& shape, Plan* plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  if (!Check(api_.preference_create(&preference))) return;
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute,
                       auto value) {
    Check(api_.preference_set(preference, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.weight_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.out_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.out_alignment);
  cublasLtMatmulHeuristicResult_t result = {};
  int count = 0;
  // That there is none is an answer, not a failure.
  const cublasStatus_t status =
      api_.get_heuristic(handle_, plan->desc, plan->weights, plan->rows,
                         plan->out, plan->out, preference, 1, &result, &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) Check(status);
  plan->possible = status == CUBLAS_STATUS_SUCCESS && count > 0 &&
                   result.state == CUBLAS_STATUS_SUCCESS;
  plan->algorithm = result.algo;
  api_.preference_destroy(preference);
}

void DenseGemm::DropPlans() {
  for (auto& [shape, plan] : plans_) {
    if (plan.desc != nullptr) api_.desc_destroy(plan.desc);
    for (cublasLtMatrixLayout_t layout : {plan.weights, plan.rows, plan.out}) {
      if (layout != nullptr) api_.layout_destroy(layout);
    }
  }
  plans_.clear();
}

}  // namespace shoal::cuda
