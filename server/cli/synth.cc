// shoal synth GEOMETRY: a checkpoint of a published shape with random weights.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/cli/commands.h"
#include "server/synth/geometry.h"
#include "server/synth/synthesize.h"

namespace shoal {
namespace {

double Gigabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

int Synth(SynthOptions& options) {
  const absl::Time start = absl::Now();
  absl::Time shown = start;
  const bool is_terminal = isatty(STDERR_FILENO) != 0;
  options.progress = [&](int64_t done, int64_t all) {
    const absl::Time now = absl::Now();
    if (!is_terminal || now - shown < absl::Milliseconds(200)) return;
    shown = now;
    std::fprintf(stderr, "\r%.2f of %.2f GB", Gigabytes(done), Gigabytes(all));
    std::fflush(stderr);
  };
  const absl::StatusOr<SynthReport> report = Synthesize(options);
  if (shown != start) std::fputc('\n', stderr);
  if (!report.ok()) return Fail(report.status());
  std::printf("%s: %lld tensors, %.3f GB in %.1f s\n", options.path.c_str(),
              static_cast<long long>(report->num_tensors),
              Gigabytes(report->weight_bytes),
              absl::ToDoubleSeconds(absl::Now() - start));
  return 0;
}

}  // namespace

Run AddSynthCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "synth", "Write a model of a published shape with random weights");
  auto options = std::make_shared<SynthOptions>();
  command
      ->add_option("GEOMETRY", options->geometry,
                   "One of " + absl::StrJoin(GeometryNames(), ", "))
      ->required();
  command
      ->add_option("--format", options->format,
                   "bf16, fp8: Hugging Face folder; q8_0, q4_0, q4_k: GGUF")
      ->required();
  command->add_option("--out", options->path, "Folder or file to write")
      ->required();
  command->add_option("--layers", options->layers,
                      "Only the first N layers (0: all)");
  command->add_option("--router-skew", options->router_skew,
                      "Popularity of the expert of rank k falls as k^-S");
  command->add_option("--seed", options->seed, "Seed of the weights")
      ->capture_default_str();
  command->add_flag("--force", options->force, "Replace what is at --out");
  return [options] { return Synth(*options); };
}

}  // namespace shoal
