#include "kernels/kernel_table.h"

#include <utility>
#include <vector>

namespace shoal {
namespace {

class FinishedFetch : public DeviceFetch {
 public:
  FinishedFetch(absl::Status status, std::vector<uint8_t> bytes)
      : status_(std::move(status)), bytes_(std::move(bytes)) {}

  absl::StatusOr<const void*> Wait() override {
    if (!status_.ok()) return status_;
    return bytes_.data();
  }

 private:
  const absl::Status status_;
  const std::vector<uint8_t> bytes_;
};

}  // namespace

std::unique_ptr<DeviceFetch> KernelTable::Fetch(const void* device,
                                                int64_t bytes) {
  std::vector<uint8_t> host(bytes);
  absl::Status status = Download(device, bytes, host.data());
  return std::make_unique<FinishedFetch>(std::move(status), std::move(host));
}

void KernelTable::GatedLinear(const GatedLinearParams& p) {
  const LinearPart parts[] = {p.gate, p.up};
  Linear({p.in, p.num_tokens, p.in_features, parts});
  SiluMul({p.gate.out, p.up.out, p.gate.out, p.num_tokens,
           p.gate.weight->out_features(), p.limit});
}

void KernelTable::HeadsWrite(const HeadsWriteParams& p) {
  const auto prepare = [&](float* heads, int32_t num_heads, const float* norm) {
    if (norm != nullptr) {
      RmsNorm({heads, norm, heads, p.num_tokens * num_heads, p.head_dim,
               p.head_dim, p.head_dim, p.eps});
    }
    RopeParams rope;
    rope.x = heads;
    rope.cos = p.cos;
    rope.sin = p.sin;
    rope.num_tokens = p.num_tokens;
    rope.num_heads = num_heads;
    rope.head_dim = p.head_dim;
    rope.rotary_dim = p.head_dim;
    rope.token_stride = int64_t{num_heads} * p.head_dim;
    rope.layout = p.layout;
    Rope(rope);
  };
  prepare(p.q, p.num_heads, p.q_norm);
  prepare(p.k, p.num_kv_heads, p.k_norm);
  const int64_t width = int64_t{p.num_kv_heads} * p.head_dim;
  CacheWrite({p.k, p.slot_mapping, p.num_tokens, width, width, p.k_cache,
              p.k_order, p.head_dim});
  CacheWrite({p.v, p.slot_mapping, p.num_tokens, width, width, p.v_cache,
              p.v_order, p.head_dim});
}

void KernelTable::AddShared(const MoeExpertsParams& p) {
  if (!p.shared.is_here()) return;
  const int64_t width = p.shared.gate->out_features();
  float* gate = p.shared_scratch;
  GatedLinear({p.in,
               p.num_tokens,
               p.hidden_size,
               {p.shared.gate, nullptr, gate},
               {p.shared.up, nullptr, gate + p.num_tokens * width},
               p.swiglu_limit});
  const LinearPart down = {p.shared.down, nullptr, p.out, /*accumulate=*/true};
  Linear({gate, p.num_tokens, width, {&down, 1}});
}

}  // namespace shoal
