#include <flashinfer/attention/mla_hopper.cuh>
#include <flashinfer/attention/mla_params.cuh>
#include <flashinfer/attention/scheduler.cuh>

#include "tests/bench/multiples.h"
#include "tests/gpu/flashinfer.h"
#include "tests/gpu/flashinfer_workspace.h"

namespace shoal {
namespace {

constexpr uint32_t kLatent = 512;
constexpr uint32_t kRope = 64;
constexpr uint32_t kRow = kLatent + kRope;

using Params = flashinfer::MLAParams<BF16, BF16, BF16, int32_t>;

class MlaStep : public FlashInferStep {
 public:
  cudaError_t Plan(const PeerAttention& work) {
    if (!memory_.ok()) return cudaErrorMemoryAllocation;
    const auto heads = static_cast<uint32_t>(work.num_heads);
    const int32_t blocks =
        (work.context + work.block_size - 1) / work.block_size;
    std::vector<int32_t> first_queries = Multiples(work.num_seqs, 1);
    std::vector<int32_t> first_blocks = Multiples(work.num_seqs, blocks);
    std::vector<int32_t> contexts(work.num_seqs, work.context);
    size_t staged_bytes = 0;
    const cudaError_t error = flashinfer::MLAPlan(
        memory_.floats(), FlashInferWorkspace::kFloatBytes, memory_.ints(),
        memory_.host_ints(), FlashInferWorkspace::kIntBytes, plan_,
        staged_bytes, first_queries.data(), first_blocks.data(),
        contexts.data(), work.num_seqs, heads, kLatent, /*causal=*/false,
        nullptr);
    if (error != cudaSuccess) return error;
    params_.q_nope = AsBF16(work.q);
    params_.q_pe = params_.q_nope + kLatent;
    params_.ckv = AsBF16(work.k);
    params_.kpe = params_.ckv + kLatent;
    params_.kv_indices = const_cast<int32_t*>(work.block_tables);
    params_.final_o = AsBF16(work.out);
    params_.final_lse = nullptr;
    params_.partial_o = memory_.Floats<BF16>(plan_.partial_o_offset);
    params_.partial_lse = memory_.Floats<float>(plan_.partial_lse_offset);
    params_.q_indptr = memory_.Ints(plan_.q_indptr_offset);
    params_.kv_indptr = memory_.Ints(plan_.kv_indptr_offset);
    params_.partial_indptr = memory_.Ints(plan_.partial_indptr_offset);
    params_.q_len = memory_.Ints(plan_.q_len_offset);
    params_.kv_len = memory_.Ints(plan_.kv_len_offset);
    params_.q_start = memory_.Ints(plan_.q_start_offset);
    params_.kv_start = memory_.Ints(plan_.kv_start_offset);
    params_.kv_end = memory_.Ints(plan_.kv_end_offset);
    params_.work_indptr = memory_.Ints(plan_.work_indptr_offset);
    params_.merge_packed_offset_start =
        memory_.Ints(plan_.merge_packed_offset_start_offset);
    params_.merge_packed_offset_end =
        memory_.Ints(plan_.merge_packed_offset_end_offset);
    params_.merge_partial_packed_offset_start =
        memory_.Ints(plan_.merge_partial_packed_offset_start_offset);
    params_.merge_partial_packed_offset_end =
        memory_.Ints(plan_.merge_partial_packed_offset_end_offset);
    params_.merge_partial_stride =
        memory_.Ints(plan_.merge_partial_stride_offset);
    params_.num_heads = flashinfer::uint_fastdiv(heads);
    params_.block_size = flashinfer::uint_fastdiv(work.block_size);
    params_.q_nope_stride_n = params_.q_pe_stride_n = heads * kRow;
    params_.q_nope_stride_h = params_.q_pe_stride_h = kRow;
    params_.ckv_stride_n = params_.kpe_stride_n = kRow;
    params_.ckv_stride_page = params_.kpe_stride_page = work.block_size * kRow;
    params_.o_stride_n = heads * kLatent;
    params_.o_stride_h = kLatent;
    params_.sm_scale = work.scale;
    params_.return_lse_base_on_e = false;
    return cudaSuccess;
  }

  cudaError_t Run() override {
    return flashinfer::mla::BatchMLAPageAttentionHopper<
        flashinfer::MaskMode::kNone, kLatent, kRope>(params_, plan_.num_blks_x,
                                                     plan_.num_blks_y, nullptr);
  }

 private:
  FlashInferWorkspace memory_;
  flashinfer::MLAPlanInfo plan_;
  Params params_ = {};
};

}  // namespace

std::unique_ptr<FlashInferStep> PlanFlashInferMla(const PeerAttention& work) {
  return Planned<MlaStep>(work);
}

}  // namespace shoal
