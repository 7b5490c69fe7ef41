#include "engine/experts/expert_tiers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/experts/tiered_experts.h"
#include "kernels/check.h"

namespace shoal {
namespace {

// At most this much is carried to the device between two steps: about a
// millisecond of the link.
constexpr int64_t kMovedBytesPerStep = int64_t{64} << 20;
constexpr int kStepsPerPlan = 16;

int64_t TotalBytes(const Checkpoint& checkpoint) {
  int64_t bytes = 0;
  for (const auto& [name, weight] : checkpoint.weights()) {
    bytes += weight.data.bytes() + weight.scales.bytes();
  }
  return bytes;
}

int64_t AutomaticBudget(const Checkpoint& checkpoint, const ExpertSizes& sizes,
                        const KernelTable& device) {
  const int64_t experts = sizes.total_bytes();
  const int64_t left = std::max<int64_t>(
      0, device.FreeBytes() - (TotalBytes(checkpoint) - experts));
  return experts <= left / 10 * 9 ? experts : left / 2;
}

// Values of one expert's matrices.
int64_t NumWeights(const ModelConfig& config) {
  return 3 * config.hidden_size * config.moe_intermediate_size;
}

template <typename Op>
double Seconds(const Op& op) {
  const absl::Time start = absl::Now();
  op();
  return std::max(1e-9, absl::ToDoubleSeconds(absl::Now() - start));
}

}  // namespace

StallTimer::StallTimer(double& seconds)
    : seconds_(seconds), start_(absl::Now()) {}
StallTimer::~StallTimer() {
  seconds_ += absl::ToDoubleSeconds(absl::Now() - start_);
}

ExpertSizes SizesOfExperts(const Checkpoint& checkpoint,
                           const ModelConfig& config) {
  ExpertSizes sizes;
  sizes.num_experts = config.n_routed_experts;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    int64_t bytes = 0;
    for (const char* part : {"gate", "up", "down"}) {
      const absl::StatusOr<WeightView> weight = checkpoint.Find(absl::StrCat(
          "model.layers.", layer, ".mlp.experts.0.", part, "_proj.weight"));
      // What is missing is the loader's to say.
      if (weight.ok()) bytes += weight->data.bytes() + weight->scales.bytes();
    }
    sizes.layer_bytes.push_back(bytes);
  }
  return sizes;
}

std::unique_ptr<ExpertTiers> ExpertTiers::Create(
    const Checkpoint& checkpoint, const ModelConfig& config,
    const ExpertTierOptions& options, Precision precision,
    KernelTable& device) {
  if (options.host == nullptr || device.memory_is_host()) return nullptr;
  const ExpertSizes sizes = SizesOfExperts(checkpoint, config);
  if (sizes.count() == 0) return nullptr;
  ExpertTierOptions decided = options;
  if (decided.device_bytes < 0) {
    decided.device_bytes = AutomaticBudget(checkpoint, sizes, device);
  }
  if (decided.device_bytes >= sizes.total_bytes() &&
      options.capacity_factor <= 0) {
    return nullptr;
  }
  return std::unique_ptr<ExpertTiers>(
      new ExpertTiers(checkpoint, config, decided, precision, device));
}

ExpertTiers::ExpertTiers(const Checkpoint& checkpoint,
                         const ModelConfig& config,
                         const ExpertTierOptions& options, Precision precision,
                         KernelTable& device)
    : checkpoint_(checkpoint),
      config_(config),
      options_(options),
      precision_(precision),
      device_(device),
      host_(*options.host),
      sizes_(SizesOfExperts(checkpoint, config)),
      residency_(UniformPlacement(sizes_, options.device_bytes)) {
  for (int64_t e = 0; e < sizes_.count(); ++e) {
    if (residency_[e]) CountCopy(e, 1);
    if (!residency_[e] || keeps_all_on_host()) {
      stats_.host_bytes += sizes_.bytes(e);
    }
  }
  stats_.on_host = sizes_.count() - stats_.on_device;
}

ExpertTiers::~ExpertTiers() = default;

std::unique_ptr<ExpertStore> ExpertTiers::MakeStore(const std::string& prefix,
                                                    WeightLoader& loader) {
  const auto row = static_cast<int64_t>(layers_.size());
  SHOAL_CHECK(row < static_cast<int64_t>(sizes_.layer_bytes.size()));
  auto store = std::make_unique<TieredExperts>(*this, row, prefix, loader);
  layers_.push_back(store.get());
  return store;
}

absl::Status ExpertTiers::Prepare(int64_t max_tokens) {
  const int64_t choices = max_tokens * config_.num_experts_per_tok;
  const int64_t floats = max_tokens * config_.hidden_size;
  workspace_.ids.resize(choices);
  workspace_.weights.resize(choices);
  workspace_.in.resize(floats);
  workspace_.out.resize(floats);
  const auto allocate = [&](const char* what, int64_t bytes,
                            std::unique_ptr<DeviceBuffer>* to) {
    absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
        device_.Allocate(bytes);
    if (!buffer.ok()) {
      return absl::Status(buffer.status().code(),
                          absl::StrCat(what, ": ", buffer.status().message()));
    }
    *to = *std::move(buffer);
    return absl::OkStatus();
  };
  absl::Status status = allocate("results of experts on the host",
                                 floats * static_cast<int64_t>(sizeof(float)),
                                 &workspace_.partial);
  if (status.ok() && options_.capacity_factor > 0) {
    workspace_.kept_ids.resize(choices);
    status = allocate("choices of experts",
                      choices * static_cast<int64_t>(sizeof(int32_t)),
                      &workspace_.device_kept_ids);
  }
  if (!status.ok()) return status;
  if (!options_.speeds.has_value()) return MeasureSpeeds();
  speeds_ = *options_.speeds;
  return absl::OkStatus();
}

// With experts of the model itself: one token reads several of them, many
// tokens compute with one.
absl::Status ExpertTiers::MeasureSpeeds() {
  constexpr size_t kExperts = 8;
  constexpr int64_t kTokens = 64;
  constexpr int64_t kLinkBytes = int64_t{32} << 20;
  std::vector<ExpertWeights> experts;  // of one layer: stored alike
  int64_t bytes = 0;                   // of one
  for (size_t row = 0; row < layers_.size() && experts.empty(); ++row) {
    bytes = sizes_.layer_bytes[row];
    for (const PackedExpert& expert : layers_[row]->on_host()) {
      if (expert.gate != nullptr && experts.size() < kExperts) {
        experts.push_back(expert.weights());
      }
    }
  }
  SHOAL_CHECK(!experts.empty());
  const std::vector<float> rows(kTokens * config_.hidden_size, 0.5f);
  const std::vector<float> ones(kTokens * kExperts, 1.0f);
  std::vector<float> out(rows.size());
  // Of `tokens` tokens that choose the first `top_k` experts each.
  const auto run = [&](int64_t tokens, size_t top_k) {
    std::vector<int32_t> ids(tokens * top_k);
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(i % top_k);
    }
    MoeExpertsParams params = ExpertParams(config_);
    params.in = rows.data();
    params.expert_ids = ids.data();
    params.expert_weights = ones.data();
    params.experts = experts;
    params.num_tokens = tokens;
    params.top_k = static_cast<int32_t>(top_k);
    params.out = out.data();
    return Seconds([&] { host_.MoeExperts(params); });
  };
  // Twice: pages and threads are there the second time.
  double reading = 0, computing = 0, carrying = 0;
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> target =
      device_.Allocate(kLinkBytes);
  if (!target.ok()) return target.status();
  const std::vector<uint8_t> source(kLinkBytes, 1);
  for (int i = 0; i < 2; ++i) {
    reading = run(1, experts.size());
    computing = run(kTokens, 1);
    absl::Status status = device_.Synchronize();
    carrying = Seconds([&] {
      device_.Upload(source.data(), kLinkBytes, (*target)->data());
      status.Update(device_.Synchronize());
    });
    if (!status.ok()) return status;
  }
  speeds_.host_bytes = static_cast<double>(bytes) *
                       static_cast<double>(experts.size()) / reading;
  speeds_.host_macs =
      static_cast<double>(NumWeights(config_)) * kTokens / computing;
  speeds_.link_bytes = kLinkBytes / carrying;
  return absl::OkStatus();
}

void ExpertTiers::CountCopy(int64_t expert, int64_t sign) {
  stats_.on_device += sign;
  stats_.on_host -= sign;
  stats_.device_bytes += sign * sizes_.bytes(expert);
}

absl::Status ExpertTiers::Move(const ExpertMove& move) {
  TieredExperts& layer = *layers_[move.expert / sizes_.num_experts];
  const int64_t expert = move.expert % sizes_.num_experts;
  if (!move.to_device) {
    layer.DropFromDevice(expert);
  } else {
    absl::Status status = layer.LoadOnDevice(expert);
    if (!status.ok()) return status;
    stats_.moved_bytes += sizes_.bytes(move.expert);
  }
  residency_[move.expert] = move.to_device;
  CountCopy(move.expert, move.to_device ? 1 : -1);
  return absl::OkStatus();
}

absl::Status ExpertTiers::EndStep(const ExpertLoad& load) {
  if (options_.mode == PlacementMode::kStatic) return absl::OkStatus();
  const StallTimer timer(stats_.stall_seconds);
  if (next_move_ == moves_.size() && ++steps_ >= kStepsPerPlan) {
    steps_ = 0;
    MoveLimits limits;
    limits.budget = options_.device_bytes;
    limits.max_bytes = kStepsPerPlan * kMovedBytesPerStep;
    if (options_.mode == PlacementMode::kFrequency) {
      const std::vector<float> all(load.loads().begin(), load.loads().end());
      moves_ = PlanMoves(sizes_, residency_, all, limits);
    } else {
      moves_ = PlanMoves(sizes_, residency_, load.recent_loads(), limits);
    }
    next_move_ = 0;
  }
  int64_t moved = 0;
  while (next_move_ < moves_.size() && moved < kMovedBytesPerStep) {
    const ExpertMove& move = moves_[next_move_++];
    absl::Status status = Move(move);
    if (absl::IsResourceExhausted(status)) {
      // Memory in pieces that are too small: the expert stays on the host.
      next_move_ = moves_.size();
      return absl::OkStatus();
    }
    if (!status.ok()) return status;
    if (move.to_device) moved += sizes_.bytes(move.expert);
  }
  return absl::OkStatus();
}

int64_t ExpertTiers::workspace_bytes() const {
  const auto bytes = [](const std::unique_ptr<DeviceBuffer>& buffer) {
    return buffer == nullptr ? 0 : buffer->bytes();
  };
  return bytes(workspace_.partial) + bytes(workspace_.device_kept_ids);
}

}  // namespace shoal
