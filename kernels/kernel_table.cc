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

}  // namespace shoal
