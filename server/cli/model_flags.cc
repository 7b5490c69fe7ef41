#include "server/cli/model_flags.h"

namespace shoal {

void AddComputeFlags(CLI::App* command, ModelOptions* options) {
  command
      ->add_option("MODEL", options->path, "GGUF file or Hugging Face folder")
      ->required();
  command
      ->add_option("--threads", options->threads,
                   "Threads that compute; 0: every core this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--device", options->device, "Where to compute")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--cpu-isa", options->cpu_isa, "Instruction set to use")
      ->check(CLI::IsMember({"auto", "scalar", "avx2", "avx512"}))
      ->capture_default_str();
  command->add_option(
      "--weight-cache", options->weight_cache,
      "Folder that keeps the weights as the CPU wants them (about the model's "
      "size), so that the next start takes seconds");
  command
      ->add_option("--expert-memory", options->expert_memory,
                   "Bytes of experts on a CUDA device, the others being "
                   "computed by the CPU; -1: all that fit")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 50))
      ->capture_default_str();
  command
      ->add_option("--expert-placement", options->expert_placement,
                   "Which experts lie on the device: static for the first of "
                   "each layer, frequency for those chosen most, dynamic for "
                   "those chosen most of late")
      ->check(CLI::IsMember({"static", "frequency", "dynamic"}))
      ->capture_default_str();
  command
      ->add_option("--expert-capacity-factor", options->expert_capacity_factor,
                   "What a device takes of one expert's tokens in a step, as a "
                   "multiple of an even share; the CPU computes the others. 0: "
                   "all")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command
      ->add_option("--index-topk", options->index_topk,
                   "Keys that a token attends to in models that choose them "
                   "(DeepSeek-V3.2, V4): fewer is faster and less exact; 0: as "
                   "the model says")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
}

void AddModelFlags(CLI::App* command, ModelOptions* options) {
  AddComputeFlags(command, options);
  command
      ->add_option("--dtype", options->dtype,
                   "Activations: auto rounds them to the weights' precision, "
                   "f32 computes exactly (slow)")
      ->check(CLI::IsMember({"auto", "f32"}))
      ->capture_default_str();
  command->add_flag_callback(
      "--no-batch-invariant", [options] { options->batch_invariant = false; },
      "On a CUDA device dense products of more than 32 rows by cuBLASLt, FP8 "
      "ones with FP8 activations: a row's last bits then depend on what else "
      "is in the batch");
  command
      ->add_option("--kv-cache-dtype", options->kv_cache_dtype,
                   "Element type of the KV cache (auto: bf16, or f32 with "
                   "--dtype f32)")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "f16"}))
      ->capture_default_str();
}

}  // namespace shoal
