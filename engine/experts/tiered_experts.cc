#include "engine/experts/tiered_experts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

// Experts are carried to the device in groups of about this many bytes, each
// run before the next: what they take of its memory stays bounded.
constexpr int64_t kStreamedGroupBytes = int64_t{256} << 20;

}  // namespace

TieredExperts::TieredExperts(ExpertTiers& tiers, int64_t row,
                             std::string prefix, WeightLoader& loader)
    : tiers_(tiers), row_(row), prefix_(std::move(prefix)) {
  const int64_t count = tiers.sizes_.num_experts;
  device_.resize(count);
  host_.resize(count);
  device_weights_.resize(count);
  streamed_weights_.resize(count);
  computed_weights_.resize(count);
  WeightLoader host_loader(tiers.checkpoint_, tiers.host_, tiers.precision_);
  for (int64_t e = 0;
       e < count && loader.status().ok() && host_loader.status().ok(); ++e) {
    const bool resident = tiers.residency_[row * count + e];
    if (resident) {
      device_[e] = PackedExpert::Load(PrefixOf(e), loader);
      device_weights_[e] = device_[e].weights();
    }
    if (!resident || tiers.keeps_all_on_host()) {
      host_[e] = PackedExpert::Load(PrefixOf(e), host_loader);
    }
  }
  loader.Fail(host_loader.status());
}

std::string TieredExperts::PrefixOf(int64_t expert) const {
  return absl::StrCat(prefix_, expert, ".");
}

absl::StatusOr<PackedExpert> TieredExperts::PackForDevice(int64_t expert) {
  WeightLoader loader(tiers_.checkpoint_, tiers_.device_, tiers_.precision_);
  PackedExpert packed = PackedExpert::Load(PrefixOf(expert), loader);
  if (!loader.status().ok()) return loader.status();
  return packed;
}

absl::Status TieredExperts::LoadOnDevice(int64_t expert) {
  absl::StatusOr<PackedExpert> packed = PackForDevice(expert);
  if (!packed.ok()) return packed.status();
  device_[expert] = *std::move(packed);
  device_weights_[expert] = device_[expert].weights();
  return absl::OkStatus();
}

void TieredExperts::DropFromDevice(int64_t expert) {
  device_weights_[expert] = {};
  device_[expert] = {};
}

absl::StatusOr<bool> TieredExperts::Classify(const ExpertChoice& choice) {
  ExpertTiers::Workspace& work = tiers_.workspace_;
  const int64_t num_choices =
      choice.num_tokens * tiers_.config_.num_experts_per_tok;
  absl::Status status = tiers_.device_.Download(
      choice.ids, num_choices * static_cast<int64_t>(sizeof(int32_t)),
      work.ids.data());
  if (!status.ok()) return status;
  tokens_.assign(device_.size(), 0);
  for (int64_t c = 0; c < num_choices; ++c) {
    if (work.ids[c] >= 0) ++tokens_[work.ids[c]];
  }
  streamed_.clear();
  std::fill(computed_weights_.begin(), computed_weights_.end(),
            ExpertWeights());
  computes_ = sheds_ = false;
  bool on_device = false;
  const int64_t capacity =
      ExpertCapacity(tiers_.options_.capacity_factor, num_choices,
                     static_cast<int64_t>(tokens_.size()));
  ExpertStats& stats = tiers_.stats_;
  const int64_t bytes = tiers_.sizes_.layer_bytes[row_];
  const int64_t weights =
      3 * tiers_.config_.hidden_size * tiers_.config_.moe_intermediate_size;
  for (size_t e = 0; e < tokens_.size(); ++e) {
    if (tokens_[e] == 0) continue;
    if (device_weights_[e].is_here()) {
      on_device = true;
      stats.device_choices += std::min(tokens_[e], capacity);
      if (tokens_[e] <= capacity) continue;
      computed_weights_[e] = host_[e].weights();
      computes_ = sheds_ = true;
      stats.host_choices += tokens_[e] - capacity;
    } else if (IsStreamed(tiers_.speeds_, bytes, weights, tokens_[e])) {
      streamed_.push_back(static_cast<int64_t>(e));
    } else {
      computed_weights_[e] = host_[e].weights();
      computes_ = true;
      stats.host_choices += tokens_[e];
    }
  }
  if (sheds_) Shed(num_choices, capacity);
  return on_device;
}

// The first tokens stay.
void TieredExperts::Shed(int64_t num_choices, int64_t capacity) {
  ExpertTiers::Workspace& work = tiers_.workspace_;
  std::copy_n(work.ids.begin(), num_choices, work.kept_ids.begin());
  std::vector<int64_t> kept(tokens_.size());
  for (int64_t c = 0; c < num_choices; ++c) {
    const int32_t e = work.ids[c];
    if (e < 0 || tokens_[e] <= capacity || !device_weights_[e].is_here()) {
      continue;
    }
    (kept[e]++ < capacity ? work.ids : work.kept_ids)[c] = -1;
  }
  tiers_.device_.Upload(work.kept_ids.data(),
                        num_choices * static_cast<int64_t>(sizeof(int32_t)),
                        work.device_kept_ids->data());
}

absl::Status TieredExperts::Begin(const ExpertChoice& choice,
                                  const SharedExperts& shared, const float* x,
                                  float* out) {
  ExpertTiers::Workspace& work = tiers_.workspace_;
  KernelTable& device = tiers_.device_;
  const absl::StatusOr<bool> on_device = Classify(choice);
  if (!on_device.ok()) return on_device.status();
  num_tokens_ = choice.num_tokens;
  MoeExpertsParams params = ExpertParams(tiers_.config_);
  params.in = x;
  params.expert_ids =
      sheds_ ? static_cast<const int32_t*>(work.device_kept_ids->data())
             : choice.ids;
  params.expert_weights = choice.weights;
  params.num_tokens = choice.num_tokens;
  params.out = out;
  // Before the device gets work, which a copy would wait for. What is to be
  // carried may find no memory there.
  if (computes_ || !streamed_.empty()) {
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    absl::Status status =
        device.Download(choice.weights, num_tokens_ * params.top_k * kFloat,
                        work.weights.data());
    if (status.ok()) {
      status = device.Download(x, num_tokens_ * params.hidden_size * kFloat,
                               work.in.data());
    }
    if (!status.ok()) return status;
  }
  if (*on_device || shared.weights.is_here()) {
    // Without a chosen one there, as if there were none.
    params.experts = *on_device ? device_weights_ : streamed_weights_;
    params.shared = shared.weights;
    params.shared_scratch = shared.scratch;
    device.MoeExperts(params);
    params.shared = {};
  }
  return RunStreamed(params);
}

absl::Status TieredExperts::RunStreamed(MoeExpertsParams params) {
  const int64_t bytes = tiers_.sizes_.layer_bytes[row_];
  const auto group = static_cast<size_t>(
      std::max<int64_t>(1, kStreamedGroupBytes / std::max<int64_t>(1, bytes)));
  ExpertStats& stats = tiers_.stats_;
  params.experts = streamed_weights_;
  for (size_t first = 0; first < streamed_.size(); first += group) {
    const StallTimer timer(stats.stall_seconds);
    std::vector<PackedExpert> carried;
    for (size_t i = first; i < std::min(first + group, streamed_.size()); ++i) {
      const int64_t e = streamed_[i];
      absl::StatusOr<PackedExpert> packed = PackForDevice(e);
      if (absl::IsResourceExhausted(packed.status())) {
        computed_weights_[e] = host_[e].weights();
        computes_ = true;
        stats.host_choices += tokens_[e];
        continue;
      }
      if (!packed.ok()) return packed.status();
      carried.push_back(*std::move(packed));
      streamed_weights_[e] = carried.back().weights();
      stats.streamed_choices += tokens_[e];
      stats.streamed_bytes += bytes;
    }
    if (!carried.empty()) tiers_.device_.MoeExperts(params);
    // The memory may be given out again at once: what is queued comes first.
    std::fill(streamed_weights_.begin(), streamed_weights_.end(),
              ExpertWeights());
  }
  return absl::OkStatus();
}

absl::Status TieredExperts::Finish(float* out) {
  if (!computes_) return absl::OkStatus();
  ExpertTiers::Workspace& work = tiers_.workspace_;
  MoeExpertsParams params = ExpertParams(tiers_.config_);
  const int64_t floats = num_tokens_ * params.hidden_size;
  params.in = work.in.data();
  params.expert_ids = work.ids.data();
  params.expert_weights = work.weights.data();
  params.experts = computed_weights_;
  params.num_tokens = num_tokens_;
  params.out = work.out.data();
  {
    const StallTimer timer(tiers_.stats_.stall_seconds);
    std::fill_n(work.out.begin(), floats, 0.0f);
    tiers_.host_.MoeExperts(params);
  }
  auto* partial = static_cast<float*>(work.partial->data());
  tiers_.device_.Upload(work.out.data(),
                        floats * static_cast<int64_t>(sizeof(float)), partial);
  tiers_.device_.Add(partial, floats, out);
  return absl::OkStatus();
}

}  // namespace shoal
