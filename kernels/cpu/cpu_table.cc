#include "kernels/cpu/cpu_table.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/attention_jobs.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/host_memory.h"
#include "kernels/cpu/linear_jobs.h"
#include "kernels/cpu/moe_experts.h"
#include "kernels/cpu/moe_route.h"
#include "kernels/cpu/packed_memory.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/quant/dequantize.h"

namespace shoal {
namespace {

constexpr int64_t kLine = 16;  // floats

const CpuOps& OpsOf(CpuIsa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case CpuIsa::kAvx2:
      return Avx2Ops();
    case CpuIsa::kAvx512:
      return Avx512Ops();
#endif
    default:
      return ScalarOps();
  }
}

class CpuKernelTable : public KernelTable {
 public:
  CpuKernelTable(const CpuOps& ops, int num_threads)
      : ops_(ops),
        pool_(num_threads),
        scratch_(num_threads),
        drawers_(num_threads),
        linear_(num_threads),
        attention_(num_threads),
        experts_(num_threads) {}

  std::string_view name() const override { return ops_.name; }
  int num_threads() const override { return pool_.num_threads(); }
  bool memory_is_host() const override { return true; }
  int64_t FreeBytes() const override { return AvailableMemoryBytes(); }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t bytes) override {
    auto buffer = std::make_unique<HostBuffer>(bytes);
    if (buffer->data() == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for ", bytes, " bytes"));
    }
    return buffer;
  }

  void Upload(const void* host, int64_t bytes, void* device) override {
    std::memcpy(device, host, bytes);
  }
  absl::Status Download(const void* device, int64_t bytes,
                        void* host) override {
    std::memcpy(host, device, bytes);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const WeightView& weight, Precision precision) override {
    return PackForCpu(weight, precision, ops_, packed_memory_, pool_);
  }
  absl::Status KeepPacked(const std::string& path, const std::string& key,
                          int64_t max_bytes) override {
    absl::StatusOr<std::unique_ptr<PackedFile>> file =
        PackedFile::Open(path,
                         absl::StrCat("layout ", kPackedLayout, ", ",
                                      std::string(name()), ", ", key),
                         max_bytes, pool_);
    if (!file.ok()) return file.status();
    packed_memory_.Use(*std::move(file));
    return absl::OkStatus();
  }
  absl::Status EndPacking() override {
    return packed_memory_.FinishFile(pool_);
  }

  void Linear(const LinearParams& params) override;
  void HeadLinear(const HeadLinearParams& params) override;
  void Zero(float* out, int64_t n) override { std::fill_n(out, n, 0.0f); }
  void Add(const float* in, int64_t n, float* out) override {
    for (int64_t i = 0; i < n; ++i) out[i] += in[i];
  }
  void Embedding(const EmbeddingParams& params) override;
  void RmsNorm(const RmsNormParams& params) override {
    ForRows(params.num_rows, params.width, [&](int64_t begin, int64_t end) {
      ops_.rms_norm(params, begin, end);
    });
  }
  void LayerNorm(const LayerNormParams& params) override {
    ForRows(params.num_rows, params.width, [&](int64_t begin, int64_t end) {
      ops_.layer_norm(params, begin, end);
    });
  }
  void Rope(const RopeParams& params) override {
    ForRows(params.num_tokens, int64_t{params.num_heads} * params.rotary_dim,
            [&](int64_t begin, int64_t end) { ops_.rope(params, begin, end); });
  }
  void SiluMul(const SiluMulParams& params) override {
    // An exponential costs as much as some ten other operations.
    ForRows(
        params.num_tokens, 8 * params.width,
        [&](int64_t begin, int64_t end) { ops_.silu_mul(params, begin, end); });
  }
  bool has_cache_tiles() const override { return ops_.has_pairs; }
  void CacheWrite(const CacheWriteParams& params) override;
  void PagedAttention(const PagedAttentionParams& params) override {
    SHOAL_CHECK(!params.tiled || has_cache_tiles());
    attention_.Paged(ops_, pool_, params);
  }
  void LatentWrite(const LatentWriteParams& params) override;
  void LatentAttention(const LatentAttentionParams& params) override {
    attention_.Latent(ops_, pool_, params);
  }
  void CopyRows(const CopyRowsParams& params) override;
  void KeySelect(const KeySelectParams& params) override {
    attention_.SelectKeys(ops_, pool_, params);
  }
  void SparseAttention(const SparseAttentionParams& params) override {
    attention_.Sparse(ops_, pool_, params);
  }
  void Compress(const CompressParams& params) override {
    // Both halves of a channel belong together; whole cache lines to a thread.
    pool_.For((params.width + kLine - 1) / kLine, 1,
              [&](int64_t begin, int64_t end, int) {
                ops_.compress(params, begin * kLine,
                              std::min<int64_t>(end * kLine, params.width));
              });
  }
  void HyperMix(const HyperMixParams& params) override {
    ForRows(params.num_tokens, params.m * params.hidden_size,
            [&](int64_t begin, int64_t end) {
              ops_.hyper_mix(params, begin, end);
            });
  }
  void HyperExpand(const HyperExpandParams& params) override {
    ForRows(params.num_tokens, params.m * params.hidden_size,
            [&](int64_t begin, int64_t end) {
              ops_.hyper_expand(params, begin, end);
            });
  }
  void MoeRoute(const MoeRouteParams& params) override {
    if (params.router != nullptr) {
      const LinearPart part = {params.router, nullptr, params.logits};
      Linear({params.in,
              params.num_tokens,
              params.router->in_features(),
              {&part, 1}});
    }
    const int64_t scratch = cpu::RouteScratchSize(params);
    pool_.For(params.num_tokens, 32,
              [&](int64_t begin, int64_t end, int thread) {
                cpu::RouteTokens(params, begin, end, Scratch(thread, scratch));
              });
  }
  void MoeExperts(const MoeExpertsParams& params) override {
    experts_.Run(ops_, pool_, params);
    AddShared(params);
  }
  void Sample(const SampleParams& params) override;

  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  // Splits rows of `width` elements of work over the threads.
  template <typename Body>
  void ForRows(int64_t rows, int64_t width, const Body& body) {
    cpu::ForRows(pool_, rows, width, body);
  }

  float* Scratch(int thread, int64_t floats) {
    std::vector<float>& scratch = scratch_[thread];
    if (static_cast<int64_t>(scratch.size()) < floats) scratch.resize(floats);
    return scratch.data();
  }

  const CpuOps& ops_;
  ThreadPool pool_;
  PackedMemory packed_memory_;
  std::vector<std::vector<float>> scratch_;  // one a thread
  std::vector<TokenDrawer> drawers_;         // one a thread
  cpu::RowRounder rounder_;
  cpu::LinearRunner linear_;
  cpu::AttentionRunner attention_;
  cpu::ExpertRunner experts_;
};

const CpuMatrix& AsCpu(const PackedMatrix* matrix) {
  return *static_cast<const CpuMatrix*>(matrix);
}

void CpuKernelTable::Linear(const LinearParams& params) {
  if (params.num_tokens == 0) return;
  constexpr int kMaxParts = 8;
  SHOAL_CHECK(params.parts.size() <= kMaxParts);
  cpu::LinearJob jobs[kMaxParts];
  bool rounds = false;
  for (const LinearPart& part : params.parts) {
    rounds = rounds || AsCpu(part.weight).form() == CpuMatrix::Form::kTiles;
  }
  const int64_t rows[] = {0, params.num_tokens};
  const RoundedRows rounded =
      rounds ? rounder_.Round(ops_, pool_, params.in, params.in_features, rows)
                   .front()
             : RoundedRows{};
  for (size_t i = 0; i < params.parts.size(); ++i) {
    const LinearPart& part = params.parts[i];
    const CpuMatrix& matrix = AsCpu(part.weight);
    const int64_t stride =
        part.out_stride > 0 ? part.out_stride : matrix.out_features();
    jobs[i] = {&matrix,
               params.in,
               rounded,
               params.num_tokens,
               {part.bias, part.out, stride, part.accumulate}};
  }
  linear_.Run(ops_, pool_, {jobs, params.parts.size()});
}

void CpuKernelTable::HeadLinear(const HeadLinearParams& params) {
  if (params.num_tokens == 0) return;
  const int64_t in_features = params.weights.front()->in_features();
  const int64_t out_features = params.weights.front()->out_features();
  const auto num_heads = static_cast<int64_t>(params.weights.size());
  pool_.For(num_heads, 1, [&](int64_t begin, int64_t end, int thread) {
    float* rows = Scratch(thread, params.num_tokens * in_features);
    for (int64_t h = begin; h < end; ++h) {
      const CpuMatrix& matrix = AsCpu(params.weights[h]);
      SHOAL_CHECK(matrix.form() == CpuMatrix::Form::kFloats);
      const float* in = params.in + h * params.in_head_stride;
      float* out = params.out + h * params.out_head_stride;
      for (int64_t t = 0; t < params.num_tokens; ++t) {
        std::copy_n(in + t * params.in_token_stride, in_features,
                    rows + t * in_features);
      }
      ops_.float_linear(matrix.floats(), rows, params.num_tokens,
                        {nullptr, out, params.out_token_stride, false}, 0,
                        out_features);
    }
  });
}

void CpuKernelTable::CacheWrite(const CacheWriteParams& params) {
  // Rows of sequences lie apart, and none is in the caches yet.
  ForRows(params.num_tokens, 4 * params.row_width,
          [&](int64_t begin, int64_t end) {
            ops_.cache_write(params, begin, end);
          });
  if (params.order == CacheOrder::kRows) return;
  SHOAL_CHECK(has_cache_tiles());
  // Some tokens of a step fill a tile.
  constexpr int64_t kTokens = 4 * kCacheTile;
  const int64_t scratch = kCacheTile / 2 * params.head_dim;
  pool_.For(
      params.num_tokens, kTokens, [&](int64_t begin, int64_t end, int thread) {
        ops_.fill_cache_tiles(params, begin, end, Scratch(thread, scratch));
      });
}

namespace {

// What is rotated of tokens [begin, end) to where it is wanted too.
void CopyRotated(const LatentWriteParams& p, int64_t begin, int64_t end) {
  for (int64_t i = begin * p.num_heads; i < end * p.num_heads; ++i) {
    std::copy_n(p.q + (i + 1) * p.q_dim - p.rope_dim, p.rope_dim,
                p.q_rope + i * p.q_rope_stride);
  }
}

}  // namespace

void CpuKernelTable::LatentWrite(const LatentWriteParams& params) {
  const int64_t row = params.cache.dim(1);
  const int64_t rank = row - params.rope_dim;
  const int64_t tokens = params.num_tokens;
  const RmsNormParams norm = {params.latent, params.norm, params.latent,
                              tokens,        rank,        row,
                              row,           params.eps};
  const auto rotation = [&](float* x, int32_t heads, int64_t head_dim) {
    RopeParams rope;
    rope.x = x;
    rope.cos = params.cos;
    rope.sin = params.sin;
    rope.num_tokens = tokens;
    rope.num_heads = heads;
    rope.head_dim = static_cast<int32_t>(head_dim);
    rope.rotary_dim = params.rope_dim;
    rope.offset = static_cast<int32_t>(head_dim - params.rope_dim);
    rope.token_stride = heads * head_dim;
    rope.layout = params.layout;
    return rope;
  };
  const RopeParams latent = rotation(params.latent, 1, row);
  const RopeParams q = rotation(params.q, params.num_heads, params.q_dim);
  const CacheWriteParams write = {
      params.latent, params.slot_mapping, tokens, row, row, params.cache};
  ForRows(tokens, 4 * row + int64_t{params.num_heads} * params.rope_dim,
          [&](int64_t begin, int64_t end) {
            ops_.rms_norm(norm, begin, end);
            ops_.rope(latent, begin, end);
            ops_.rope(q, begin, end);
            if (params.q_rope != nullptr) CopyRotated(params, begin, end);
            ops_.cache_write(write, begin, end);
          });
}

void CpuKernelTable::Sample(const SampleParams& params) {
  pool_.For(params.num_rows, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t r = begin; r < end; ++r) {
      const std::span<const float> row(params.logits + r * params.width,
                                       params.width);
      params.out[r] = params.draws == nullptr
                          ? LargestLogit(row)
                          : drawers_[thread].Draw(row, params.draws[r]);
    }
  });
}

void CpuKernelTable::Embedding(const EmbeddingParams& params) {
  const int64_t width = params.table.in_features();
  ForRows(params.num_tokens, width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      DequantizeWeightRow(params.table, params.token_ids[t],
                          params.out + t * width);
    }
  });
}

void CpuKernelTable::CopyRows(const CopyRowsParams& params) {
  const int64_t width = params.from.dim(params.from.rank - 1);
  const int64_t bytes = DTypeBytes(params.from.dtype, width);
  ForRows(params.num_rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(
          static_cast<uint8_t*>(params.to.data) + params.to_rows[i] * bytes,
          static_cast<const uint8_t*>(params.from.data) +
              params.from_rows[i] * bytes,
          bytes);
    }
  });
}

}  // namespace

std::unique_ptr<KernelTable> MakeCpuKernelTable(CpuIsa isa, int num_threads) {
  return MakeCpuKernelTable(OpsOf(isa), num_threads);
}

std::unique_ptr<KernelTable> MakeCpuKernelTable(const CpuOps& ops,
                                                int num_threads) {
  return std::make_unique<CpuKernelTable>(ops, num_threads);
}

}  // namespace shoal
