// shoal bench MODEL: speed of the engine's forward passes alone. For every
// combination of batch and prompt, all prompts are prefilled one after another
// and then decoded together, greedily, over random tokens.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/cache/paged_cache.h"
#include "engine/loading/active_weights.h"
#include "engine/sampling/sampler.h"
#include "nlohmann/json.hpp"
#include "server/cli/commands.h"
#include "server/cli/model_flags.h"
#include "server/open_model.h"

namespace shoal {
namespace {

constexpr int32_t kMinBlockSize = 16;  // tokens

struct BenchOptions {
  ModelOptions model;
  std::vector<int> batches = {1, 8, 32};
  std::vector<int> prompts = {128, 512};
  int generate = 64;
  bool no_prefill = false;
  bool json = false;
};

struct Result {
  int batch = 0;
  int prompt = 0;
  double prefill_tokens_per_second = 0;
  double decode_tokens_per_second = 0;
};

int64_t PeakRssBytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// One batch's sequences, each with its own run of cache blocks.
class Bench {
 public:
  Bench(OpenedModel& model, const BenchOptions& options)
      : decoder_(*model.decoder),
        kernels_(*model.kernels),
        max_tokens_(options.model.max_tokens_per_step),
        no_prefill_(options.no_prefill),
        logits_(decoder_.config().vocab_size * 32) {}

  absl::StatusOr<Result> Run(int batch, int prompt, int generate) {
    const CacheLayout& layout = decoder_.cache_layout();
    block_size_ = std::max(kMinBlockSize, layout.BlockMultiple());
    const int32_t blocks = (prompt + generate + block_size_ - 1) / block_size_;
    absl::StatusOr<std::unique_ptr<PagedCache>> cache = PagedCache::Create(
        layout, blocks * batch, block_size_, batch, kernels_);
    if (!cache.ok()) return cache.status();
    blocks_per_sequence_ = blocks;
    std::mt19937 random(42);
    const auto vocab_size = static_cast<uint32_t>(decoder_.config().vocab_size);
    std::vector<int32_t> next(batch);

    const absl::Time start = absl::Now();
    for (int s = 0; s < batch && !no_prefill_; ++s) {
      for (int32_t first = 0; first < prompt; first += max_tokens_) {
        const int32_t count = std::min(max_tokens_, prompt - first);
        StepBatch step = Begin();
        Add(
            s, first, count,
            [&] { return static_cast<int32_t>(random() % vocab_size); }, &step);
        if (first + count == prompt) step.logits_rows = {count - 1};
        absl::Status status = decoder_.Forward(step, **cache);
        if (!status.ok()) return status;
      }
      absl::Status status = Choose(1, next.data() + s);
      if (!status.ok()) return status;
    }
    const absl::Time prefilled = absl::Now();
    for (int32_t i = 0; i + 1 < generate; ++i) {
      StepBatch step = Begin();
      for (int s = 0; s < batch; ++s) {
        Add(
            s, prompt + i, 1, [&] { return next[s]; }, &step);
        step.logits_rows.push_back(s);
      }
      absl::Status status = decoder_.Forward(step, **cache);
      if (status.ok()) status = Choose(batch, next.data());
      if (!status.ok()) return status;
    }
    const absl::Time end = absl::Now();
    Result result;
    result.batch = batch;
    result.prompt = prompt;
    if (!no_prefill_) {
      result.prefill_tokens_per_second =
          batch * prompt / absl::ToDoubleSeconds(prefilled - start);
    }
    if (generate > 1) {
      result.decode_tokens_per_second =
          batch * (generate - 1) / absl::ToDoubleSeconds(end - prefilled);
    }
    return result;
  }

 private:
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

  absl::Status Choose(int32_t rows, int32_t* tokens) {
    const int64_t vocab_size = decoder_.config().vocab_size;
    for (int32_t first = 0; first < rows; first += 32) {
      const int32_t count = std::min(32, rows - first);
      absl::Status status = decoder_.Logits(first, count, logits_.data());
      if (!status.ok()) return status;
      for (int32_t i = 0; i < count; ++i) {
        tokens[first + i] = ArgMax(
            {logits_.data() + i * vocab_size, static_cast<size_t>(vocab_size)});
      }
    }
    return absl::OkStatus();
  }

  Decoder& decoder_;
  KernelTable& kernels_;
  const int32_t max_tokens_;
  const bool no_prefill_;
  int32_t block_size_ = 0;
  int32_t blocks_per_sequence_ = 0;
  std::vector<float> logits_;
};

int RunBench(BenchOptions& options) {
  const int most =
      *std::max_element(options.batches.begin(), options.batches.end());
  options.model.max_tokens_per_step =
      std::max(options.model.max_tokens_per_step, most);
  const absl::Time start = absl::Now();
  absl::StatusOr<OpenedModel> model = OpenModel(options.model);
  if (!model.ok()) return Fail(model.status());
  const double ready = absl::ToDoubleSeconds(absl::Now() - start);
  const int threads = model->kernels->num_threads();

  Bench bench(*model, options);
  absl::Status warm = bench.Run(1, 32, 4).status();
  if (!warm.ok()) return Fail(warm);
  const ActiveWeights active = CountActiveWeights(*model->checkpoint);
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  if (!options.json) {
    std::printf(
        "%s on %d threads (%s), ready in %.2f s; a token takes %.1f MB of "
        "weights\n",
        options.model.path.c_str(), threads,
        std::string(model->kernels->name()).c_str(), ready,
        static_cast<double>(active.bytes) / 1e6);
    std::printf("%6s %7s %9s %16s %16s\n", "batch", "prompt", "generate",
                "prefill tok/s", "decode tok/s");
  }
  for (int batch : options.batches) {
    for (int prompt : options.prompts) {
      absl::StatusOr<Result> result =
          bench.Run(batch, prompt, options.generate);
      if (!result.ok()) return Fail(result.status());
      if (!options.json) {
        std::printf("%6d %7d %9d %16.1f %16.1f\n", batch, prompt,
                    options.generate, result->prefill_tokens_per_second,
                    result->decode_tokens_per_second);
        std::fflush(stdout);
      }
      json.push_back(
          {{"batch", batch},
           {"prompt", prompt},
           {"generate", options.generate},
           {"threads", threads},
           {"prefill_tokens_per_second", result->prefill_tokens_per_second},
           {"decode_tokens_per_second", result->decode_tokens_per_second},
           {"active_layer_values", active.layer_values},
           {"active_head_values", active.head_values},
           {"active_bytes", active.bytes},
           {"ready_seconds", ready},
           {"peak_rss_bytes", PeakRssBytes()}});
    }
  }
  if (options.json) {
    std::printf("%s\n", json.dump(2).c_str());
  } else {
    std::printf("peak memory %.1f MB\n",
                static_cast<double>(PeakRssBytes()) / 1e6);
  }
  return 0;
}

}  // namespace

Run AddBenchCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "bench", "Measure the engine's prefill and decode speed");
  auto options = std::make_shared<BenchOptions>();
  AddModelFlags(command, &options->model);
  command->add_option("--batch", options->batches, "Sequences, e.g. 1,8,32")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--prompt", options->prompts, "Prompt tokens, e.g. 128,512")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--generate", options->generate, "Tokens a sequence")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--no-prefill", options->no_prefill,
                    "Decode after a prompt that is not computed (its cache "
                    "holds zeros): speed at long contexts");
  command->add_flag("--json", options->json, "Print JSON");
  return [options] { return RunBench(*options); };
}

}  // namespace shoal
