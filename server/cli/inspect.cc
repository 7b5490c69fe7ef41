// shoal inspect MODEL: what a model file holds and what it will cost.
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/loading/active_weights.h"
#include "engine/loading/checkpoint.h"
#include "engine/models/cache_layouts.h"
#include "server/cli/commands.h"

namespace shoal {
namespace {

struct InspectOptions {
  std::string path;
  bool tensors = false;
};

void PrintRow(const char* name, const std::string& value) {
  std::printf("  %-26s %s\n", name, value.c_str());
}

void PrintConfig(const ModelConfig& c) {
  const auto print = [](const char* name, int64_t value) {
    PrintRow(name, absl::StrCat(value));
  };
  std::printf("config\n");
  PrintRow("model_type", c.model_type);
  print("vocab_size", c.vocab_size);
  print("hidden_size", c.hidden_size);
  print("intermediate_size", c.intermediate_size);
  print("num_hidden_layers", c.num_hidden_layers);
  print("num_attention_heads", c.num_attention_heads);
  print("num_key_value_heads", c.num_key_value_heads);
  print("head_dim", c.head_dim);
  print("max_position_embeddings", c.max_position_embeddings);
  PrintRow("rope_theta", absl::StrCat(c.rope_theta));
  PrintRow("rms_norm_eps", absl::StrFormat("%g", c.rms_norm_eps));
  PrintRow("tie_word_embeddings", c.tie_word_embeddings ? "true" : "false");
}

std::string ShapeText(const ConstTensorView& view) {
  std::string text;
  for (int i = 0; i < view.rank; ++i) {
    absl::StrAppend(&text, i == 0 ? "[" : ", ", view.dim(i));
  }
  return text + "]";
}

int Inspect(const InspectOptions& options) {
  auto checkpoint = LoadCheckpoint(options.path);
  if (!checkpoint.ok()) return Fail(checkpoint.status());
  const ModelConfig& config = (*checkpoint)->config();
  std::printf("%s (%s, %.1f MB)\n", options.path.c_str(),
              (*checkpoint)->container().c_str(),
              static_cast<double>((*checkpoint)->file_bytes()) / 1e6);
  PrintConfig(config);

  struct Sum {
    int64_t tensors = 0, elements = 0, bytes = 0;
  };
  std::map<std::string, Sum> by_type;
  int64_t parameters = 0;
  int64_t draft_parameters = 0;  // of the layer behind the last
  const std::string behind =
      absl::StrCat("model.layers.", config.num_hidden_layers, ".");
  for (const auto& [name, weight] : (*checkpoint)->weights()) {
    Sum& sum = by_type[std::string(DTypeName(weight.data.dtype))];
    ++sum.tensors;
    sum.elements += weight.data.num_elements();
    sum.bytes += weight.data.bytes();
    (absl::StartsWith(name, behind) ? draft_parameters : parameters) +=
        weight.data.num_elements();
  }
  std::printf("weights\n");
  PrintRow("parameters",
           absl::StrFormat("%.2f M", static_cast<double>(parameters) / 1e6));
  if (draft_parameters > 0) {
    PrintRow(
        "prediction module",
        absl::StrFormat("%.2f M", static_cast<double>(draft_parameters) / 1e6));
  }
  for (const auto& [type, sum] : by_type) {
    PrintRow(
        type.c_str(),
        absl::StrFormat("%6d tensors %10.2f M values %10.1f MB", sum.tensors,
                        static_cast<double>(sum.elements) / 1e6,
                        static_cast<double>(sum.bytes) / 1e6));
  }
  const ActiveWeights active = CountActiveWeights(**checkpoint);
  PrintRow("active for a token",
           absl::StrFormat("%.2f M values, %.1f MB",
                           static_cast<double>(active.values()) / 1e6,
                           static_cast<double>(active.bytes) / 1e6));
  std::printf("cache\n");
  const CacheLayout layout = MakeCacheLayout(config, DType::kBF16);
  for (const CacheGroup& group : layout.groups) {
    const std::string unit =
        group.rows_per_sequence > 0
            ? absl::StrCat(" times ", group.rows_per_sequence, " a sequence")
        : group.tokens_per_row > 1
            ? absl::StrCat(" for ", group.tokens_per_row, " tokens")
            : " a token";
    PrintRow(group.name.c_str(),
             absl::StrCat(group.num_layers, " layers of ", group.row_width,
                          " values", unit));
  }
  PrintRow("bytes per token (bf16)", absl::StrCat(layout.BytesPerToken()));
  if (layout.BytesPerSequence() > 0) {
    PrintRow("bytes per sequence", absl::StrCat(layout.BytesPerSequence()));
  }
  if (options.tensors) {
    std::printf("tensors\n");
    for (const auto& [name, weight] : (*checkpoint)->weights()) {
      std::printf("  %-56s %-8s %s\n", name.c_str(),
                  std::string(DTypeName(weight.data.dtype)).c_str(),
                  ShapeText(weight.data).c_str());
    }
  }
  return 0;
}

}  // namespace

Run AddInspectCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "inspect", "Print a model's configuration, weights and cache cost");
  auto options = std::make_shared<InspectOptions>();
  command
      ->add_option("MODEL", options->path, "GGUF file or Hugging Face folder")
      ->required();
  command->add_flag("--tensors", options->tensors, "List every tensor");
  return [options] { return Inspect(*options); };
}

}  // namespace shoal
