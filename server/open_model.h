// Opening a model for whoever runs one: kernel table, checkpoint and decoder,
// with progress on stderr when it takes more than a second.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/loading/checkpoint.h"
#include "engine/models/decoder.h"
#include "kernels/kernel_table.h"

namespace shoal {

struct ModelOptions {
  std::string path;
  std::string device = "auto";          // cpu, cuda; auto: cuda if it opens
  std::string cpu_isa = "auto";         // auto, scalar, avx2, avx512
  int threads = 0;                      // 0: all cores this process may use
  std::string dtype = "auto";           // auto (fast), f32 (exact)
  bool batch_invariant = true;          // see CudaOptions
  std::string kv_cache_dtype = "auto";  // auto, f32, bf16, f16
  int max_tokens_per_step = 512;        // 0: DefaultTokensPerStep()
  int index_topk = 0;                   // 0: the model's own
  // Folder that keeps repacked weights for the next start; empty: none. Made
  // where it is missing. The CPU's only, so not used where `auto` is another
  // device; exact products repack nothing.
  std::string weight_cache;
  MlaForm mla_form = MlaForm::kAuto;
  // Bytes of routed experts on a device that has memory of its own; -1: all
  // that fit, see ExpertTierOptions.
  int64_t expert_memory = -1;
  std::string expert_placement = "dynamic";  // static, frequency, dynamic
  double expert_capacity_factor = 0;         // 0: no limit
  // Makes the kernel table; empty: `device` and `cpu_isa` choose.
  std::function<std::unique_ptr<KernelTable>()> make_kernels;
};

// In the order in which they need each other.
struct OpenedModel {
  std::unique_ptr<KernelTable> kernels;
  std::unique_ptr<KernelTable> host_kernels;  // of experts beside a device's
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Decoder> decoder;
  int max_tokens_per_step = 0;  // of the decoder
};

// InvalidArgument for a bad option, FailedPrecondition for a device or an
// instruction set that this build or this machine lacks; else as
// LoadCheckpoint, KernelTable::KeepPacked and MakeDecoder.
absl::StatusOr<OpenedModel> OpenModel(const ModelOptions& options);

// Tokens of a step that keep the table's kernels busy without making others
// wait for long: a device's take more.
int DefaultTokensPerStep(const KernelTable& kernels);

// Cores that this process may run on.
int UsableCores();

}  // namespace shoal
