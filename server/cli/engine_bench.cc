#include "server/cli/engine_bench.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/cache/paged_cache.h"

namespace shoal {
namespace {

constexpr int32_t kMinBlockSize = 16;  // tokens

// The different experts that steps choose.
class ChosenExperts {
 public:
  explicit ChosenExperts(const Decoder& decoder) : decoder_(decoder) {
    for (int layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
      const std::span<const uint64_t> load = decoder.expert_load(layer);
      if (!load.empty()) before_[layer].assign(load.begin(), load.end());
    }
  }

  // What was chosen since the last call is one step's.
  void EndStep() {
    for (auto& [layer, before] : before_) {
      const std::span<const uint64_t> load = decoder_.expert_load(layer);
      for (size_t e = 0; e < before.size(); ++e) {
        num_chosen_ += load[e] != before[e] ? 1 : 0;
        before[e] = load[e];
      }
      ++num_layers_;
    }
  }
  double per_step() const {
    return num_layers_ == 0 ? 0
                            : static_cast<double>(num_chosen_) / num_layers_;
  }

 private:
  const Decoder& decoder_;
  std::map<int, std::vector<uint64_t>> before_;  // load of layers with experts
  int64_t num_chosen_ = 0;
  int64_t num_layers_ = 0;  // of all steps
};

// One batch's sequences, each with its own run of cache blocks.
class Bench {
 public:
  Bench(Decoder& decoder, KernelTable& kernels, int32_t max_tokens)
      : decoder_(decoder), kernels_(kernels), max_tokens_(max_tokens) {}

  absl::StatusOr<EngineBenchResult> Run(const EngineBenchCase& work) {
    const auto& [batch, prompt, generate, no_prefill] = work;
    const CacheLayout& layout = decoder_.cache_layout();
    block_size_ = std::max(kMinBlockSize, layout.BlockMultiple());
    const int32_t blocks = (prompt + generate + block_size_ - 1) / block_size_;
    absl::StatusOr<std::unique_ptr<PagedCache>> cache = PagedCache::Create(
        layout, blocks * batch, block_size_, batch, kernels_);
    if (!cache.ok()) return cache.status();
    Touch(**cache);
    blocks_per_sequence_ = blocks;
    std::mt19937 random(42);
    const auto vocab_size = static_cast<uint32_t>(decoder_.config().vocab_size);
    std::vector<int32_t> next(batch), tokens;

    const absl::Time start = absl::Now();
    for (int s = 0; s < batch && !no_prefill; ++s) {
      for (int32_t first = 0; first < prompt; first += max_tokens_) {
        const int32_t count = std::min(max_tokens_, prompt - first);
        StepBatch step = Begin();
        Add(
            s, first, count,
            [&] { return static_cast<int32_t>(random() % vocab_size); }, &step);
        if (first + count == prompt) step.logits_rows = {count - 1};
        absl::Status status = decoder_.Start(step, **cache);
        if (status.ok() && first + count == prompt) {
          status = decoder_.Draw(1, /*draws=*/nullptr);
        }
        if (status.ok()) status = decoder_.Finish(&tokens);
        if (!status.ok()) return status;
      }
      next[s] = tokens.front();
    }
    const absl::Time prefilled = absl::Now();
    // As in the engine: a step is started before the one ahead is finished.
    const int32_t most_under_way = decoder_.can_run_ahead() ? 2 : 1;
    int32_t under_way = 0;
    ChosenExperts experts(decoder_);
    for (int32_t i = 0; i + 1 < generate || under_way > 0;) {
      absl::Status status;
      if (i + 1 < generate && under_way < most_under_way) {
        StepBatch step = Begin();
        for (int s = 0; s < batch; ++s) {
          Add(
              s, prompt + i, 1,
              [&] { return under_way > 0 ? DrawnToken(s) : next[s]; }, &step);
          step.logits_rows.push_back(s);
        }
        status = decoder_.Start(step, **cache);
        if (status.ok()) status = decoder_.Draw(batch, /*draws=*/nullptr);
        ++i;
        ++under_way;
      } else {
        status = decoder_.Finish(&next);
        --under_way;
        experts.EndStep();
      }
      if (!status.ok()) return status;
    }
    const absl::Time end = absl::Now();
    EngineBenchResult result;
    if (!no_prefill) {
      result.prefill_tokens_per_second =
          batch * prompt / absl::ToDoubleSeconds(prefilled - start);
    }
    if (generate > 1) {
      result.decode_tokens_per_second =
          batch * (generate - 1) / absl::ToDoubleSeconds(end - prefilled);
    }
    result.experts_per_step = experts.per_step();
    return result;
  }

 private:
  // A cache's memory is the machine's from its first use on, which costs as
  // much as some of the work to be measured, and no server twice.
  void Touch(const PagedCache& cache) const {
    const auto& groups = cache.layout().groups;
    for (size_t g = 0; g < groups.size(); ++g) {
      for (int layer = 0; layer < groups[g].num_layers; ++layer) {
        const TensorView tensor = cache.tensor(static_cast<int>(g), layer);
        kernels_.Zero(static_cast<float*>(tensor.data),
                      tensor.bytes() / static_cast<int64_t>(sizeof(float)));
      }
    }
  }

  StepBatch Begin() const {
    StepBatch step;
    step.cu_seqlens_q = {0};
    step.max_blocks = blocks_per_sequence_;
    return step;
  }

  template <typename NextToken>
  void Add(int sequence, int32_t first, int32_t count,
           const NextToken& next_token, StepBatch* step) const {
    const int64_t slot = int64_t{sequence} * blocks_per_sequence_ * block_size_;
    for (int32_t position = first; position < first + count; ++position) {
      step->token_ids.push_back(next_token());
      step->positions.push_back(position);
      step->slot_mapping.push_back(slot + position);
    }
    step->cu_seqlens_q.push_back(step->num_tokens());
    step->context_lens.push_back(first + count);
    step->state_slots.push_back(sequence);
    for (int32_t b = 0; b < blocks_per_sequence_; ++b) {
      step->block_tables.push_back(sequence * blocks_per_sequence_ + b);
    }
  }

  Decoder& decoder_;
  KernelTable& kernels_;
  const int32_t max_tokens_;
  int32_t block_size_ = 0;
  int32_t blocks_per_sequence_ = 0;
};

}  // namespace

absl::StatusOr<EngineBenchResult> RunEngineBench(Decoder& decoder,
                                                 KernelTable& kernels,
                                                 int32_t max_tokens,
                                                 const EngineBenchCase& work) {
  return Bench(decoder, kernels, max_tokens).Run(work);
}

}  // namespace shoal
