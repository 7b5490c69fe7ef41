#include <flashinfer/attention/decode.cuh>
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/scheduler.cuh>
#include <flashinfer/attention/variants.cuh>

#include "tests/bench/multiples.h"
#include "tests/gpu/flashinfer.h"
#include "tests/gpu/flashinfer_workspace.h"

namespace shoal {
namespace {

constexpr uint32_t kDim = 128;
constexpr uint32_t kGroup = 4;
constexpr auto kNoRope = flashinfer::PosEncodingMode::kNone;

using Params = flashinfer::BatchDecodeParams<BF16, BF16, BF16, int32_t>;
using Variant = flashinfer::DefaultAttention<false, false, false, false>;

class GqaStep : public FlashInferStep {
 public:
  cudaError_t Plan(const PeerAttention& work) {
    const auto heads = static_cast<uint32_t>(work.num_heads);
    const int32_t blocks =
        (work.context + work.block_size - 1) / work.block_size;
    std::vector<int32_t> first_blocks = Multiples(work.num_seqs, blocks);
    const std::vector<int32_t> last(
        work.num_seqs, work.context - (blocks - 1) * work.block_size);
    params_.q = AsBF16(work.q);
    params_.o = AsBF16(work.out);
    params_.paged_kv = flashinfer::paged_kv_t<BF16, int32_t>(
        heads / kGroup, work.block_size, kDim, work.num_seqs,
        flashinfer::QKVLayout::kNHD, AsBF16(work.k), AsBF16(work.v),
        const_cast<int32_t*>(work.block_tables), memory_.OnDevice(first_blocks),
        memory_.OnDevice(last));
    params_.num_qo_heads = heads;
    params_.q_stride_n = static_cast<int32_t>(heads * kDim);
    params_.q_stride_h = kDim;
    params_.window_left = -1;
    params_.sm_scale = work.scale;
    if (!memory_.ok()) return cudaErrorMemoryAllocation;
    flashinfer::DecodePlanInfo plan;
    const cudaError_t error =
        flashinfer::DecodePlan<kDim, kNoRope, Variant, Params>(
            memory_.floats(), FlashInferWorkspace::kFloatBytes, memory_.ints(),
            memory_.host_ints(), FlashInferWorkspace::kIntBytes, plan,
            first_blocks.data(), work.num_seqs, heads, work.block_size,
            /*enable_cuda_graph=*/false, nullptr,
            flashinfer::BatchDecodeWithPagedKVCacheWorkEstimationDispatched<
                kGroup, kDim, kNoRope, Variant, Params>);
    if (error != cudaSuccess) return error;
    params_.request_indices = memory_.Ints(plan.request_indices_offset);
    params_.kv_tile_indices = memory_.Ints(plan.kv_tile_indices_offset);
    params_.o_indptr = memory_.Ints(plan.o_indptr_offset);
    params_.kv_chunk_size_ptr = memory_.Ints(plan.kv_chunk_size_ptr_offset);
    params_.padded_batch_size = static_cast<uint32_t>(plan.padded_batch_size);
    if (plan.split_kv) {
      values_ = memory_.Floats<BF16>(plan.v_offset);
      sums_ = memory_.Floats<float>(plan.s_offset);
    }
    return cudaSuccess;
  }

  cudaError_t Run() override {
    return flashinfer::BatchDecodeWithPagedKVCacheDispatched<kDim, kNoRope,
                                                             Variant>(
        params_, values_, sums_, /*enable_pdl=*/false, nullptr);
  }

 private:
  FlashInferWorkspace memory_;
  Params params_;
  BF16* values_ = nullptr;  // of parts of long contexts
  float* sums_ = nullptr;
};

}  // namespace

std::unique_ptr<FlashInferStep> PlanFlashInferGqa(const PeerAttention& work) {
  return Planned<GqaStep>(work);
}

}  // namespace shoal
