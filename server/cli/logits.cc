// shoal logits MODEL: the logits of given prompts, as a file.
#include "server/logits/logits.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/loading/checkpoint.h"
#include "server/cli/commands.h"
#include "server/cli/model_flags.h"
#include "server/open_model.h"

namespace shoal {
namespace {

struct LogitsCommandOptions {
  ModelOptions model;
  std::string dtype = "f32";
  std::string tokens;
  std::string out;
  LogitsOptions run;
};

int RunLogits(LogitsCommandOptions& options) {
  // Exact computation over an exact cache, or neither.
  const bool exact = options.dtype == "f32";
  options.model.dtype = exact ? "f32" : "auto";
  options.model.kv_cache_dtype = exact ? "f32" : "bf16";
  options.model.max_tokens_per_step =
      std::max(options.model.max_tokens_per_step, options.run.chunk);
  options.run.max_tokens_per_step = options.model.max_tokens_per_step;
  // The prompts first: what is wrong with them shows before weights are read.
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      LoadCheckpoint(options.model.path);
  if (!checkpoint.ok()) return Fail(checkpoint.status());
  absl::StatusOr<std::vector<std::vector<int32_t>>> prompts =
      ReadPrompts(options.tokens, (*checkpoint)->config().vocab_size);
  if (!prompts.ok()) return Fail(prompts.status());
  absl::StatusOr<OpenedModel> model = OpenModel(options.model);
  if (!model.ok()) return Fail(model.status());
  const absl::Status status = WriteLogits(
      *prompts, options.run, *model->decoder, *model->kernels, options.out);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace

Run AddLogitsCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "logits", "Write the logits of every position of given prompts");
  auto options = std::make_shared<LogitsCommandOptions>();
  AddComputeFlags(command, &options->model);
  command
      ->add_option("--tokens", options->tokens,
                   "safetensors file with prompt{i}.input_ids, I64")
      ->required();
  command
      ->add_option("--out", options->out,
                   "safetensors file to write: prompt{i}.logits, F32 [n, "
                   "vocabulary], and prompt{i}.greedy, I64")
      ->required();
  command
      ->add_option("--greedy", options->run.greedy,
                   "Tokens to generate after each prompt")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--chunk", options->run.chunk,
                   "Most tokens of a prompt that are computed at once")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command
      ->add_option("--dtype", options->dtype,
                   "f32: exact and slow; bf16: as served, with a bf16 cache")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  command
      ->add_option("--mla", options->model.mla_form,
                   "How latent attention computes: in the latent space, from "
                   "expanded keys and values, or as each chunk asks for")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, MlaForm>{{"auto", MlaForm::kAuto},
                                         {"absorbed", MlaForm::kAbsorbed},
                                         {"expanded", MlaForm::kExpanded}}))
      ->option_text("auto|absorbed|expanded [auto]");
  return [options] { return RunLogits(*options); };
}

}  // namespace shoal
