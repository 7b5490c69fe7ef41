// The functions of the real cuBLASLt, which the other tests have a stand-in of.
#include "kernels/cuda/cublaslt_api.h"

#include <dlfcn.h>
#include <gmock/gmock.h>

#include <string>

#include "absl/status/status.h"

namespace shoal::cuda {
namespace {

using testing::HasSubstr;

TEST(CublasLtApiTest, IsWhatTheLinkerFinds) {
  const absl::StatusOr<CublasLtApi> api = LoadCublasLt();
  if (dlopen("libcublasLt.so.13", RTLD_NOW) != nullptr) {
    EXPECT_TRUE(api.ok()) << api.status();
    return;
  }
  EXPECT_EQ(api.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(api.status().message()),
              HasSubstr("libcublasLt.so.13"));
}

TEST(CublasLtApiTest, HasAllFunctions) {
  // What is loaded once is found by its name.
  void* library = dlopen(SHOAL_CUBLASLT, RTLD_NOW);
  ASSERT_NE(library, nullptr) << dlerror();
  const absl::StatusOr<CublasLtApi> api = LoadCublasLt();
  ASSERT_TRUE(api.ok()) << api.status();
  EXPECT_EQ(reinterpret_cast<void*>(api->matmul),
            dlsym(library, "cublasLtMatmul"));
  // Descriptions need no device.
  cublasLtMatmulDesc_t desc = nullptr;
  ASSERT_EQ(api->desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            CUBLAS_STATUS_SUCCESS);
  const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
  EXPECT_EQ(api->desc_set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode,
                          sizeof(mode)),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(api->desc_destroy(desc), CUBLAS_STATUS_SUCCESS);
}

}  // namespace
}  // namespace shoal::cuda
