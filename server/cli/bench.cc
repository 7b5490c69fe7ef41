// shoal bench MODEL: speed of the engine's forward passes alone. For every
// combination of batch and prompt, all prompts are prefilled one after another
// and then decoded together, greedily, over random tokens.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/loading/active_weights.h"
#include "nlohmann/json.hpp"
#include "server/cli/commands.h"
#include "server/cli/engine_bench.h"
#include "server/cli/model_flags.h"
#include "server/open_model.h"

namespace shoal {
namespace {

struct BenchOptions {
  ModelOptions model;
  std::vector<int> batches = {1, 8, 32};
  std::vector<int> prompts = {128, 512};
  int generate = 64;
  bool no_prefill = false;
  bool json = false;
};

int64_t PeakRssBytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// Bytes of weights that a decode step reads: an expert's once, however many of
// the step's tokens chose it.
int64_t DecodeStepBytes(const ActiveWeights& active, const ModelConfig& config,
                        double experts_per_step) {
  if (experts_per_step == 0) return active.bytes;
  const double tokens_worth =
      experts_per_step / static_cast<double>(config.num_experts_per_tok);
  return active.bytes - active.expert_bytes +
         static_cast<int64_t>(tokens_worth *
                              static_cast<double>(active.expert_bytes));
}

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

  const auto run = [&](const EngineBenchCase& work) {
    return RunEngineBench(*model->decoder, *model->kernels,
                          options.model.max_tokens_per_step, work);
  };
  // As wide as the work's steps, so that all memory is touched before.
  const int widest = std::min(
      *std::max_element(options.prompts.begin(), options.prompts.end()),
      options.model.max_tokens_per_step);
  absl::Status warm = run({1, widest, 4, options.no_prefill}).status();
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
      absl::StatusOr<EngineBenchResult> result =
          run({batch, prompt, options.generate, options.no_prefill});
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
           {"experts_per_step", result->experts_per_step},
           {"decode_step_bytes",
            DecodeStepBytes(active, model->checkpoint->config(),
                            result->experts_per_step)},
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
