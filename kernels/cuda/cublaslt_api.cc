#include "kernels/cuda/cublaslt_api.h"

#include <dlfcn.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace shoal::cuda {
namespace {

// Of CUDA 13, whose structures this was compiled with.
constexpr char kLibrary[] = "libcublasLt.so.13";

std::string LinkerError() {
  const char* error = dlerror();
  return error != nullptr ? error : "unknown error";
}

}  // namespace

absl::StatusOr<CublasLtApi> LoadCublasLt() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("cuBLASLt is not here: ", LinkerError()));
  }
  std::string missing;
  const auto find = [&]<typename Function>(const char* name,
                                           Function* function) {
    *function = reinterpret_cast<Function>(dlsym(library, name));
    if (*function == nullptr && missing.empty()) missing = LinkerError();
  };
  CublasLtApi api;
  find("cublasLtCreate", &api.create);
  find("cublasLtDestroy", &api.destroy);
  find("cublasLtMatmulDescCreate", &api.desc_create);
  find("cublasLtMatmulDescDestroy", &api.desc_destroy);
  find("cublasLtMatmulDescSetAttribute", &api.desc_set);
  find("cublasLtMatrixLayoutCreate", &api.layout_create);
  find("cublasLtMatrixLayoutDestroy", &api.layout_destroy);
  find("cublasLtMatmulPreferenceCreate", &api.preference_create);
  find("cublasLtMatmulPreferenceDestroy", &api.preference_destroy);
  find("cublasLtMatmulPreferenceSetAttribute", &api.preference_set);
  find("cublasLtMatmulAlgoGetHeuristic", &api.get_heuristic);
  find("cublasLtMatmul", &api.matmul);
  if (!missing.empty()) {
    return absl::NotFoundError(
        absl::StrCat("cuBLASLt is not whole: ", missing));
  }
  return api;
}

}  // namespace shoal::cuda
