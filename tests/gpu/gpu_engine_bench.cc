// Speed of the engine's forward passes on the first CUDA device, over a model
// that is synthesised first: prefill and decode at several batches, and what
// the placement of experts gives where not all fit. Prints a JSON array.
//
//   gpu_engine_bench GEOMETRY --format F [--layers N] --model PATH
//       --work 1x512,64x512 [--decode 256x1024] --generate 64
//       [--max-tokens 2048] [--router-skew S] [--expert-share 0.1
//       --expert-placement static] [--without-warpgroups]
//       [--no-batch-invariant]
//
// Work is BATCHxPROMPT; with --decode the prompts are not computed.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "engine/loading/checkpoint.h"
#include "engine/models/decoder.h"
#include "kernels/cpu/cpu_table.h"
#include "kernels/cuda/cuda_table.h"
#include "nlohmann/json.hpp"
#include "server/cli/engine_bench.h"
#include "server/synth/synthesize.h"

namespace shoal {
namespace {

struct Options {
  SynthOptions synth;
  std::vector<std::string> work, decode;  // BATCHxPROMPT
  int generate = 64;
  int max_tokens = 2048;    // of a step
  double expert_share = 1;  // of the experts' bytes on the device
  std::string placement = "dynamic";
  bool without_warpgroups = false;
  bool no_batch_invariant = false;  // products of many rows by cuBLASLt
};

// REQUIRES: kWorkForm matches `text`.
constexpr char kWorkForm[] = "[1-9][0-9]{0,4}x[1-9][0-9]{0,5}";
EngineBenchCase ParseWork(const std::string& text, bool no_prefill,
                          int generate) {
  EngineBenchCase work;
  work.batch = std::stoi(text);
  work.prompt = std::stoi(text.substr(text.find('x') + 1));
  work.generate = generate;
  work.no_prefill = no_prefill;
  return work;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

int Run(const Options& options) {
  CudaOptions cuda;
  if (options.without_warpgroups) cuda.warpgroups = CudaWarpgroups::kOff;
  cuda.batch_invariant = !options.no_batch_invariant;
  auto device = MakeCudaKernelTable(cuda);
  if (!device.ok()) return Fail(device.status());
  if (!std::filesystem::exists(options.synth.path)) {
    const auto report = Synthesize(options.synth);
    if (!report.ok()) return Fail(report.status());
  }
  const auto checkpoint = LoadCheckpoint(options.synth.path);
  if (!checkpoint.ok()) return Fail(checkpoint.status());
  const auto isa = ChooseCpuIsa("auto");
  if (!isa.ok()) return Fail(isa.status());
  const auto host = MakeCpuKernelTable(
      *isa, static_cast<int>(std::thread::hardware_concurrency()));

  DecoderOptions decoder_options;
  decoder_options.max_tokens_per_step = options.max_tokens;
  if (options.expert_share < 1) {
    const ExpertSizes sizes =
        SizesOfExperts(**checkpoint, (*checkpoint)->config());
    decoder_options.experts.host = host.get();
    decoder_options.experts.device_bytes = static_cast<int64_t>(
        options.expert_share * static_cast<double>(sizes.total_bytes()));
    decoder_options.experts.mode =
        options.placement == "static"      ? PlacementMode::kStatic
        : options.placement == "frequency" ? PlacementMode::kFrequency
                                           : PlacementMode::kDynamic;
  }
  const auto decoder =
      MakeDecoder(**checkpoint, decoder_options, **device, nullptr);
  if (!decoder.ok()) return Fail(decoder.status());

  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  const auto run = [&](const EngineBenchCase& work) {
    return RunEngineBench(**decoder, **device, options.max_tokens, work);
  };
  const auto warm = run({1, 32, 8});
  if (!warm.ok()) return Fail(warm.status());
  std::vector<EngineBenchCase> cases;
  for (const std::string& text : options.work) {
    cases.push_back(ParseWork(text, false, options.generate));
  }
  for (const std::string& text : options.decode) {
    cases.push_back(ParseWork(text, true, options.generate));
  }
  for (const EngineBenchCase& work : cases) {
    const ExpertStats before = (*decoder)->expert_stats();
    const auto result = run(work);
    if (!result.ok()) return Fail(result.status());
    const ExpertStats after = (*decoder)->expert_stats();
    json.push_back(
        {{"geometry", options.synth.geometry},
         {"format", options.synth.format},
         {"layers", (*decoder)->config().num_hidden_layers},
         {"batch", work.batch},
         {"prompt", work.prompt},
         {"generate", options.generate},
         {"tokens_per_step", options.max_tokens},
         {"prefill_tokens_per_second", result->prefill_tokens_per_second},
         {"decode_tokens_per_second", result->decode_tokens_per_second},
         {"without_warpgroups", options.without_warpgroups},
         {"batch_invariant", !options.no_batch_invariant},
         {"expert_share", options.expert_share},
         {"expert_placement", options.placement},
         {"device_choices", after.device_choices - before.device_choices},
         {"host_choices", after.host_choices - before.host_choices},
         {"streamed_choices", after.streamed_choices - before.streamed_choices},
         {"moved_bytes", after.moved_bytes - before.moved_bytes},
         {"stall_seconds", after.stall_seconds - before.stall_seconds}});
  }
  std::printf("%s\n", json.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  CLI::App app("Speed of the engine on a CUDA device");
  shoal::Options options;
  options.synth.format = "bf16";
  app.add_option("GEOMETRY", options.synth.geometry)->required();
  app.add_option("--format", options.synth.format)->capture_default_str();
  app.add_option("--layers", options.synth.layers)->capture_default_str();
  app.add_option("--router-skew", options.synth.router_skew)
      ->capture_default_str();
  app.add_option("--model", options.synth.path, "Written if it is missing")
      ->required();
  const CLI::Validator is_work(
      [](const std::string& text) {
        return std::regex_match(text, std::regex(shoal::kWorkForm))
                   ? std::string()
                   : "expected BATCHxPROMPT, got \"" + text + "\"";
      },
      "BATCHxPROMPT");
  app.add_option("--work", options.work)->delimiter(',')->check(is_work);
  app.add_option("--decode", options.decode)->delimiter(',')->check(is_work);
  app.add_option("--generate", options.generate)->capture_default_str();
  app.add_option("--max-tokens", options.max_tokens)->capture_default_str();
  app.add_flag("--without-warpgroups", options.without_warpgroups);
  app.add_flag("--no-batch-invariant", options.no_batch_invariant);
  app.add_option("--expert-share", options.expert_share)
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--expert-placement", options.placement)
      ->check(CLI::IsMember({"static", "frequency", "dynamic"}))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return shoal::Run(options);
}
