#include "kernels/cuda/cuda_table.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/cuda_matrix.h"
#include "kernels/cuda/dense_gemm.h"
#include "kernels/cuda/device_arena.h"
#include "kernels/cuda/graph_cache.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/staging.h"
#include "kernels/cuda/warpgroup_probe.h"
#include "kernels/quant/float_bits.h"

namespace shoal {
namespace cuda {
namespace {

class DriverMemory : public ChunkSource {
 public:
  void* Take(int64_t bytes) override {
    void* data = nullptr;
    if (cudaMalloc(&data, static_cast<size_t>(bytes)) == cudaSuccess) {
      return data;
    }
    cudaGetLastError();  // no memory is no fault: it must not be seen again
    return nullptr;
  }
  void Give(void* chunk) override { cudaFree(chunk); }
};

// Buffers keep the arena alive, whatever is destroyed first.
class ArenaBuffer : public DeviceBuffer {
 public:
  ArenaBuffer(std::shared_ptr<DeviceArena> arena, void* data, int64_t bytes)
      : arena_(std::move(arena)) {
    data_ = data;
    bytes_ = bytes;
  }
  ~ArenaBuffer() override { arena_->Free(data_); }

 private:
  const std::shared_ptr<DeviceArena> arena_;
};

class CudaKernelTable : public KernelTable {
 public:
  explicit CudaKernelTable(const CudaOptions& options)
      : arena_(std::make_shared<DeviceArena>(std::make_unique<DriverMemory>(),
                                             options.chunk_bytes)),
        staging_(context_),
        graphs_(context_) {
    const bool on = options.warpgroups == CudaWarpgroups::kOn;
    context_.set_warpgroups(options.warpgroups == CudaWarpgroups::kAuto
                                ? ProbeWarpgroups(context_)
                                : WarpgroupUse{on, on});
  }

  absl::Status UseDenseGemm() {
    auto gemm = DenseGemm::Open(context_);
    if (!gemm.ok()) return gemm.status();
    dense_gemm_ = *std::move(gemm);
    context_.set_dense_gemm(dense_gemm_.get());
    return absl::OkStatus();
  }

  std::string_view name() const override { return "cuda"; }
  int num_threads() const override { return 1; }
  bool memory_is_host() const override { return false; }
  bool is_asynchronous() const override { return true; }
  Precision rounded_head_precision() const override { return Precision::kFast; }
  int64_t FreeBytes() const override {
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
    return static_cast<int64_t>(free) + arena_->free_bytes();
  }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t bytes) override;
  void Upload(const void* host, int64_t bytes, void* device) override {
    context_.Begin("Upload");
    staging_.Upload(host, bytes, device);
  }
  absl::Status Download(const void* device, int64_t bytes,
                        void* host) override {
    context_.Begin("Download");
    staging_.Download(device, bytes, host);
    return Health();
  }
  std::unique_ptr<DeviceFetch> Fetch(const void* device,
                                     int64_t bytes) override {
    context_.Begin("Fetch");
    return std::make_unique<QueuedFetch>(*this, staging_.Fetch(device, bytes));
  }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const WeightView& weight, Precision precision) override;

  void Linear(const LinearParams& params) override;
  void HeadLinear(const HeadLinearParams& params) override;
  void GatedLinear(const GatedLinearParams& params) override;
  void Zero(float* out, int64_t n) override {
    context_.Begin("Zero");
    cuda::Zero(context_, out, n);
  }
  void Add(const float* in, int64_t n, float* out) override {
    context_.Begin("Add");
    cuda::Add(context_, in, n, out);
  }
  void Embedding(const EmbeddingParams& params) override {
    context_.Begin("Embedding");
    cuda::Embedding(context_, params);
  }
  void RmsNorm(const RmsNormParams& params) override {
    context_.Begin("RmsNorm");
    cuda::RmsNorm(context_, params);
  }
  void LayerNorm(const LayerNormParams& params) override {
    context_.Begin("LayerNorm");
    cuda::LayerNorm(context_, params);
  }
  void Rope(const RopeParams& params) override {
    context_.Begin("Rope");
    cuda::Rope(context_, params);
  }
  void SiluMul(const SiluMulParams& params) override {
    context_.Begin("SiluMul");
    cuda::SiluMul(context_, params, nullptr);
  }
  void CacheWrite(const CacheWriteParams& params) override {
    context_.Begin("CacheWrite");
    cuda::CacheWrite(context_, params);
  }
  void HeadsWrite(const HeadsWriteParams& params) override {
    context_.Begin("HeadsWrite");
    cuda::HeadsWrite(context_, params);
  }
  void PagedAttention(const PagedAttentionParams& params) override {
    context_.Begin("PagedAttention");
    cuda::PagedAttention(context_, params);
  }
  void LatentWrite(const LatentWriteParams& params) override {
    context_.Begin("LatentWrite");
    cuda::LatentWrite(context_, params);
  }
  void LatentAttention(const LatentAttentionParams& params) override;
  void CopyRows(const CopyRowsParams& params) override {
    context_.Begin("CopyRows");
    cuda::CopyRows(context_, params);
  }
  void KeySelect(const KeySelectParams& params) override {
    context_.Begin("KeySelect");
    cuda::KeySelect(context_, params);
  }
  void SparseAttention(const SparseAttentionParams& params) override {
    context_.Begin("SparseAttention");
    cuda::SparseAttention(context_, params);
  }
  void Compress(const CompressParams& params) override {
    context_.Begin("Compress");
    cuda::Compress(context_, params);
  }
  void HyperMix(const HyperMixParams& params) override {
    context_.Begin("HyperMix");
    cuda::HyperMix(context_, params);
  }
  void HyperExpand(const HyperExpandParams& params) override {
    context_.Begin("HyperExpand");
    cuda::HyperExpand(context_, params);
  }
  void MoeRoute(const MoeRouteParams& params) override;
  void MoeExperts(const MoeExpertsParams& params) override;
  void Sample(const SampleParams& params) override {
    context_.Begin("Sample");
    cuda::Sample(context_, params);
  }

  absl::Status Replay(std::span<const int64_t> key,
                      absl::FunctionRef<absl::Status()> ops) override {
    return graphs_.Run(key, ops);
  }

  absl::Status Synchronize() override {
    if (context_.error() == cudaSuccess) {
      context_.Begin("Synchronize");
      context_.Check(cudaStreamSynchronize(context_.stream()));
    }
    return Health();
  }

  absl::Status Health() const {
    if (context_.error() == cudaSuccess) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("cuda: ", context_.ErrorText()));
  }

 private:
  class QueuedFetch : public DeviceFetch {
   public:
    QueuedFetch(CudaKernelTable& table, Staging::Fetched* fetched)
        : table_(table), fetched_(fetched) {}
    ~QueuedFetch() override {
      if (fetched_ != nullptr) Staging::Release(*fetched_);
    }
    absl::StatusOr<const void*> Wait() override {
      table_.context_.Begin("Fetch");
      if (fetched_ == nullptr || !table_.staging_.Await(*fetched_)) {
        return table_.Health();
      }
      return fetched_->data;
    }

   private:
    CudaKernelTable& table_;
    Staging::Fetched* const fetched_;
  };

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Copy(
      const ConstTensorView& view);

  LaunchContext context_;
  std::unique_ptr<DenseGemm> dense_gemm_;
  const std::shared_ptr<DeviceArena> arena_;
  Staging staging_;
  GraphCache graphs_;
  // Of the op at hand.
  std::vector<WeightPointers> pointers_;
  std::vector<GroupedProduct> products_;
};

absl::StatusOr<std::unique_ptr<DeviceBuffer>> CudaKernelTable::Allocate(
    int64_t bytes) {
  context_.Begin("Allocate");
  if (absl::Status health = Health(); !health.ok()) return health;
  void* data = arena_->Allocate(bytes);
  if (data == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no device memory for ", bytes, " bytes, ", FreeBytes(), " are free"));
  }
  auto buffer = std::make_unique<ArenaBuffer>(arena_, data, bytes);
  if (bytes > 0) {
    context_.Check(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes),
                                   context_.stream()));
  }
  if (absl::Status health = Health(); !health.ok()) return health;
  return buffer;
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> CudaKernelTable::Copy(
    const ConstTensorView& view) {
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer = Allocate(view.bytes());
  if (buffer.ok()) Upload(view.data, view.bytes(), (*buffer)->data());
  return buffer;
}

// Matrices of types with separate scales have some, and of FP8 in f32, so that
// kernels need not ask. `widened` is where new ones are.
WeightView WithScales(WeightView weight, std::vector<float>& widened) {
  const DType dtype = weight.data.dtype;
  const bool is_fp8 = dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2;
  if (!is_fp8 && dtype != DType::kF4E2M1) return weight;
  if (weight.scales.empty()) {
    widened = {1.0f};
    weight.scales = ConstTensorView(widened.data(), DType::kF32, {1, 1});
    weight.scale_rows = static_cast<int32_t>(weight.out_features());
    weight.scale_cols =
        static_cast<int32_t>((weight.in_features() + 7) / 8 * 8);
  } else if (is_fp8 && weight.scales.dtype == DType::kF8E8M0) {
    const auto* bytes = static_cast<const uint8_t*>(weight.scales.data);
    widened.resize(weight.scales.bytes());
    std::transform(bytes, bytes + widened.size(), widened.begin(), F8E8M0ToF32);
    weight.scales.data = widened.data();
    weight.scales.dtype = DType::kF32;
  }
  // Eight neighbouring weights are read under one scale.
  SHOAL_CHECK(weight.scale_cols % 8 == 0);
  return weight;
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> CudaKernelTable::Pack(
    const WeightView& weight, Precision precision) {
  if (!IsProductType(weight.data.dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no product with weights of type ",
                     std::string(DTypeName(weight.data.dtype))));
  }
  std::vector<float> widened;
  const WeightView stored = WithScales(weight, widened);
  auto data = Copy(stored.data);
  if (!data.ok()) return data.status();
  std::unique_ptr<DeviceBuffer> scales;
  if (!stored.scales.empty()) {
    auto copied = Copy(stored.scales);
    if (!copied.ok()) return copied.status();
    scales = *std::move(copied);
  }
  return std::make_unique<CudaMatrix>(stored, precision, *std::move(data),
                                      std::move(scales));
}

// One of an op's products of `num_tokens` rows of `in`.
GroupedProduct ProductOf(const LinearPart& part, const float* in,
                         int64_t num_tokens) {
  const CudaMatrix& matrix = AsCuda(part.weight);
  GroupedProduct product;
  product.shape = matrix.shape();
  product.one = matrix.pointers();
  product.in = in;
  product.in_stride = matrix.in_features();
  product.bias = part.bias;
  product.out = part.out;
  product.out_stride =
      part.out_stride > 0 ? part.out_stride : matrix.out_features();
  product.accumulate = part.accumulate;
  product.num_rows = num_tokens;
  return product;
}

void CudaKernelTable::Linear(const LinearParams& params) {
  context_.Begin("Linear");
  products_.clear();
  for (const LinearPart& part : params.parts) {
    products_.push_back(ProductOf(part, params.in, params.num_tokens));
  }
  RunProducts(context_, products_);
}

void CudaKernelTable::GatedLinear(const GatedLinearParams& params) {
  context_.Begin("GatedLinear");
  RunGatedProducts(context_,
                   ProductOf(params.gate, params.in, params.num_tokens),
                   ProductOf(params.up, params.in, params.num_tokens),
                   params.limit, nullptr);
}

void CudaKernelTable::HeadLinear(const HeadLinearParams& params) {
  context_.Begin("HeadLinear");
  const MatrixShape& shape = AsCuda(params.weights.front()).shape();
  pointers_.clear();
  for (const PackedMatrix* weight : params.weights) {
    pointers_.push_back(AsCuda(weight).pointers());
  }
  GroupedProduct product;
  product.shape = shape;
  product.groups = context_.OnDevice(params.weights.data(), pointers_);
  product.num_groups = static_cast<int64_t>(params.weights.size());
  product.in = params.in;
  product.in_stride = params.in_token_stride;
  product.in_group_stride = params.in_head_stride;
  product.out = params.out;
  product.out_stride = params.out_token_stride;
  product.out_group_stride = params.out_head_stride;
  product.num_rows = params.num_tokens;
  RunProduct(context_, product);
}

void CudaKernelTable::LatentAttention(const LatentAttentionParams& params) {
  context_.Begin("LatentAttention");
  const size_t heads = params.k_weights.size();
  pointers_.clear();
  for (const PackedMatrix* weight : params.k_weights) {
    pointers_.push_back(AsCuda(weight).pointers());
  }
  for (const PackedMatrix* weight : params.v_weights) {
    pointers_.push_back(AsCuda(weight).pointers());
  }
  LatentWeights weights;
  weights.k_shape = AsCuda(params.k_weights.front()).shape();
  weights.v_shape = AsCuda(params.v_weights.front()).shape();
  weights.k = context_.OnDevice(params.k_weights.data(), pointers_);
  weights.v = weights.k + heads;
  weights.num_heads = static_cast<int32_t>(heads);
  cuda::LatentAttention(context_, params, weights);
}

void CudaKernelTable::MoeRoute(const MoeRouteParams& params) {
  context_.Begin("MoeRoute");
  if (params.router == nullptr) {
    cuda::MoeRoute(context_, params, nullptr);
    return;
  }
  const GroupedProduct router = ProductOf(
      {params.router, nullptr, params.logits}, params.in, params.num_tokens);
  cuda::MoeRoute(context_, params, &router);
}

void CudaKernelTable::MoeExperts(const MoeExpertsParams& params) {
  context_.Begin("MoeExperts");
  const size_t num_experts = params.experts.size();
  const ExpertWeights* any = nullptr;  // experts of a layer are stored alike
  pointers_.assign(3 * num_experts, WeightPointers());
  for (size_t e = 0; e < num_experts; ++e) {
    const ExpertWeights& expert = params.experts[e];
    if (!expert.is_here()) continue;
    any = &expert;
    pointers_[e] = AsCuda(expert.gate).pointers();
    pointers_[num_experts + e] = AsCuda(expert.up).pointers();
    pointers_[2 * num_experts + e] = AsCuda(expert.down).pointers();
  }
  if (any == nullptr) {
    AddShared(params);
    return;
  }
  const WeightPointers* device =
      context_.OnDevice(params.experts.data(), pointers_);
  const ExpertProducts experts = {
      {AsCuda(any->gate).shape(), device},
      {AsCuda(any->up).shape(), device + num_experts},
      {AsCuda(any->down).shape(), device + 2 * num_experts}};
  if (!params.shared.is_here()) {
    cuda::MoeExperts(context_, params, experts, {});
    return;
  }
  const int64_t num_tokens = params.num_tokens;
  float* gate = params.shared_scratch;
  float* up = gate + num_tokens * params.shared.gate->out_features();
  const GroupedProduct shared[] = {
      ProductOf({params.shared.gate, nullptr, gate}, params.in, num_tokens),
      ProductOf({params.shared.up, nullptr, up}, params.in, num_tokens),
      ProductOf({params.shared.down, nullptr, params.out, /*accumulate=*/true},
                gate, num_tokens)};
  cuda::MoeExperts(context_, params, experts, shared);
}

}  // namespace
}  // namespace cuda

absl::StatusOr<std::unique_ptr<KernelTable>> MakeCudaKernelTable(
    const CudaOptions& options) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "device: no CUDA device: ", error != cudaSuccess
                                        ? cudaGetErrorString(error)
                                        : "the driver knows of none"));
  }
  auto table = std::make_unique<cuda::CudaKernelTable>(options);
  if (absl::Status health = table->Health(); !health.ok()) return health;
  if (!options.batch_invariant) {
    if (absl::Status opened = table->UseDenseGemm(); !opened.ok()) {
      return absl::Status(
          opened.code(),
          absl::StrCat("no-batch-invariant: ", std::string(opened.message())));
    }
  }
  return table;
}

}  // namespace shoal
