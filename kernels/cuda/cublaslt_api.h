// The functions of cuBLASLt that Shoal calls. The library is half a gigabyte
// and of use to few, so it is loaded where a table asks for it, not linked.
#pragma once

#include <cublasLt.h>

#include "absl/status/statusor.h"

namespace shoal::cuda {

struct CublasLtApi {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) get_heuristic;
  decltype(&cublasLtMatmul) matmul;
};

// From the first libcublasLt.so.13 that the dynamic linker finds; it stays
// loaded. NotFound where there is none, with the linker's reason. Threads: any.
absl::StatusOr<CublasLtApi> LoadCublasLt();

}  // namespace shoal::cuda
