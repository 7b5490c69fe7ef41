// cuBLASLt's calls over the shim's machine, strict about what the library's
// documentation lists: shapes, types, alignments, scales.
#include <cublasLt.h>

#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "kernels/cuda/cublaslt_api.h"
#include "kernels/quant/float_bits.h"

struct ShoalSimtCublas {};
struct ShoalSimtMatmulDesc {
  std::map<cublasLtMatmulDescAttributes_t, uint64_t> values;

  uint64_t Get(cublasLtMatmulDescAttributes_t attribute,
               uint64_t otherwise = 0) const {
    const auto it = values.find(attribute);
    return it == values.end() ? otherwise : it->second;
  }
  const float* Floats(cublasLtMatmulDescAttributes_t attribute) const {
    return reinterpret_cast<const float*>(Get(attribute));
  }
};
struct ShoalSimtMatrixLayout {
  cudaDataType_t type;
  int64_t rows, columns, stride;

  int64_t element_bytes() const {
    return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF ? 2 : 1;
  }
  int64_t bytes() const {
    return ((columns - 1) * stride + rows) * element_bytes();
  }
};
struct ShoalSimtPreference {
  std::map<cublasLtMatmulPreferenceAttributes_t, uint64_t> values;

  uint64_t Get(cublasLtMatmulPreferenceAttributes_t attribute,
               uint64_t otherwise) const {
    const auto it = values.find(attribute);
    return it == values.end() ? otherwise : it->second;
  }
};

namespace {

constexpr int64_t kScaleBlock = 128;

// Bytes of an attribute's value; 0: none that the library has.
size_t BytesOf(cublasLtMatmulDescAttributes_t attribute) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
      return 8;
    case CUBLASLT_MATMUL_DESC_TRANSA:
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
      return 4;
  }
  return 0;
}
size_t BytesOf(cublasLtMatmulPreferenceAttributes_t attribute) {
  return attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4;
}

template <typename Holder, typename Attribute>
cublasStatus_t SetAttribute(Holder* holder, Attribute attribute,
                            const void* value, size_t bytes) {
  if (bytes != BytesOf(attribute)) return CUBLAS_STATUS_INVALID_VALUE;
  uint64_t bits = 0;
  std::memcpy(&bits, value, bytes);
  holder->values[attribute] = bits;
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T>
cublasStatus_t Delete(T* object) {
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

int64_t RoundUp(int64_t x, int64_t unit) {
  return (x + unit - 1) / unit * unit;
}

// What a product's operands are scaled by.
struct Scales {
  const float* a;  // of 128×128, rows of blocks of k 16 bytes apart or times it
  const float* b;  // of 128 of k, those of a k side by side
  int64_t width, columns;

  float Of(int64_t row, int64_t column, int64_t k) const {
    if (a == nullptr) return 1;
    const int64_t block = k / kScaleBlock;
    return a[row / kScaleBlock * RoundUp(width / kScaleBlock, 4) + block] *
           b[block * columns + column];
  }
};

float Element(const void* data, cudaDataType_t type, int64_t i) {
  return type == CUDA_R_16BF
             ? shoal::BF16ToF32(static_cast<const uint16_t*>(data)[i])
             : shoal::F8E4M3ToF32(static_cast<const uint8_t*>(data)[i]);
}

// Whether the library computes d = aᵀ · b of such matrices.
bool IsSupported(const ShoalSimtMatmulDesc& desc,
                 const ShoalSimtMatrixLayout& a, const ShoalSimtMatrixLayout& b,
                 const ShoalSimtMatrixLayout& d) {
  if (desc.Get(CUBLASLT_MATMUL_DESC_TRANSA) != CUBLAS_OP_T ||
      a.type != b.type || d.type != CUDA_R_32F || a.rows != b.rows ||
      a.columns != d.rows || b.columns != d.columns) {
    return false;
  }
  // "Tensor Core Usage": whole units of 16 bytes.
  if (a.stride * a.element_bytes() % 16 != 0 ||
      b.stride * b.element_bytes() % 16 != 0 || d.stride * 4 % 16 != 0) {
    return false;
  }
  const bool biased =
      desc.Get(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT) ==
      CUBLASLT_EPILOGUE_BIAS;
  const uint64_t a_mode = desc.Get(CUBLASLT_MATMUL_DESC_A_SCALE_MODE);
  const uint64_t b_mode = desc.Get(CUBLASLT_MATMUL_DESC_B_SCALE_MODE);
  if (a.type == CUDA_R_16BF) {
    return a_mode == 0 && b_mode == 0 &&
           (!biased || desc.Get(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE) ==
                           uint64_t{CUDA_R_32F});
  }
  return a.type == CUDA_R_8F_E4M3 && !biased &&
         a_mode == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F &&
         b_mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F &&
         a.rows % 16 == 0 && a.columns % 16 == 0 && b.columns % 16 == 0;
}

bool IsAligned(const void* data, uint64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new ShoalSimtCublas;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return Delete(handle);
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc,
                                        cublasComputeType_t, cudaDataType_t) {
  *desc = new ShoalSimtMatmulDesc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return Delete(desc);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(
    cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
    const void* value, size_t bytes) {
  return SetAttribute(desc, attribute, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout,
                                          cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t stride) {
  if (rows == 0 || columns == 0 || stride < static_cast<int64_t>(rows)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  *layout = new ShoalSimtMatrixLayout{type, static_cast<int64_t>(rows),
                                      static_cast<int64_t>(columns), stride};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return Delete(layout);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(
    cublasLtMatmulPreference_t* preference) {
  *preference = new ShoalSimtPreference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(
    cublasLtMatmulPreference_t preference) {
  return Delete(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t preference,
    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
    size_t bytes) {
  return SetAttribute(preference, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t preference, int,
    cublasLtMatmulHeuristicResult_t* results, int* count) {
  *count = 0;
  if (!IsSupported(*desc, *a, *b, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
  *count = 1;
  constexpr uint64_t kAligned = 256;
  results[0] = {
      {a->columns, b->columns, a->rows,
       preference->Get(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAligned),
       preference->Get(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kAligned),
       preference->Get(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kAligned)},
      preference->Get(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 0),
      CUBLAS_STATUS_SUCCESS};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                              const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm,
                              void* workspace, size_t workspace_bytes,
                              cudaStream_t) {
  using shoal::simt::IsDevice;
  const ShoalSimtMatrixLayout x = *a_layout, y = *b_layout, z = *d_layout;
  if (!IsSupported(*desc, x, y, z) || algorithm->rows != z.rows ||
      algorithm->columns != z.columns || algorithm->inner != x.rows) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool biased =
      desc->Get(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT) ==
      CUBLASLT_EPILOGUE_BIAS;
  const float* bias =
      biased ? desc->Floats(CUBLASLT_MATMUL_DESC_BIAS_POINTER) : nullptr;
  const bool scaled = x.type == CUDA_R_8F_E4M3;
  const Scales scales = {
      scaled ? desc->Floats(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER) : nullptr,
      scaled ? desc->Floats(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER) : nullptr,
      x.rows, z.columns};
  const int64_t blocks = x.rows / kScaleBlock;
  if (!IsDevice(a, x.bytes()) || !IsDevice(b, y.bytes()) ||
      !IsDevice(d, z.bytes()) || c != d ||
      !IsDevice(workspace, workspace_bytes) ||
      !IsAligned(a, algorithm->a_alignment) || !IsAligned(b, 256) ||
      !IsAligned(c, algorithm->c_alignment) ||
      !IsAligned(d, algorithm->d_alignment) ||
      (biased && !IsDevice(bias, 4 * z.rows)) ||
      (scaled &&
       (!IsDevice(scales.a, 4 * RoundUp(blocks, 4) *
                                ((z.rows + kScaleBlock - 1) / kScaleBlock)) ||
        !IsDevice(scales.b, 4 * blocks * z.columns) ||
        !IsAligned(scales.a, 16) || !IsAligned(scales.b, 16)))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const float times = *static_cast<const float*>(alpha);
  const float keep = *static_cast<const float*>(beta);
  auto* out = static_cast<float*>(d);
  const cudaError_t error = ShoalSimtQueue([=] {
    if (!shoal::simt::CountLaunch()) return cudaErrorLaunchFailure;
    const shoal::simt::OpenDevice open;
    for (int64_t column = 0; column < z.columns; ++column) {
      for (int64_t row = 0; row < z.rows; ++row) {
        float sum = 0;
        for (int64_t k = 0; k < x.rows; ++k) {
          sum += Element(a, x.type, row * x.stride + k) *
                 Element(b, y.type, column * y.stride + k) *
                 scales.Of(row, column, k);
        }
        float* to = out + column * z.stride + row;
        const float before = keep != 0 ? keep * *to : 0;
        *to = times * sum + before + (bias != nullptr ? bias[row] : 0);
      }
    }
    return cudaSuccess;
  });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                              : CUBLAS_STATUS_EXECUTION_FAILED;
}

namespace shoal::cuda {

absl::StatusOr<CublasLtApi> LoadCublasLt() {
  return CublasLtApi{
      cublasLtCreate,
      cublasLtDestroy,
      cublasLtMatmulDescCreate,
      cublasLtMatmulDescDestroy,
      cublasLtMatmulDescSetAttribute,
      cublasLtMatrixLayoutCreate,
      cublasLtMatrixLayoutDestroy,
      cublasLtMatmulPreferenceCreate,
      cublasLtMatmulPreferenceDestroy,
      cublasLtMatmulPreferenceSetAttribute,
      cublasLtMatmulAlgoGetHeuristic,
      cublasLtMatmul,
  };
}

}  // namespace shoal::cuda
