#include "server/open_model.h"

#include <sched.h>

#include <cstdio>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/cpu/cpu_table.h"

#if defined(SHOAL_WITH_CUDA)
#include "kernels/cuda/cuda_table.h"
#endif

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shoal {
namespace {

// A line on stderr that is rewritten, at most ten times a second, once loading
// has taken a second.
class ProgressLine {
 public:
  void Show(double fraction, std::string_view what) {
    const absl::Time now = absl::Now();
    if (now - start_ < absl::Seconds(1)) return;
    if (fraction < 1 && now - last_ < absl::Milliseconds(100)) return;
    last_ = now;
    shown_ = true;
    std::fprintf(stderr, "\r%.*s %3.0f %%", static_cast<int>(what.size()),
                 what.data(), fraction * 100);
    std::fflush(stderr);
  }
  ~ProgressLine() {
    if (shown_) std::fputc('\n', stderr);
  }

 private:
  const absl::Time start_ = absl::Now();
  absl::Time last_ = start_;
  bool shown_ = false;
};

absl::StatusOr<DType> ParseCacheDType(const std::string& name, bool exact) {
  if (name == "auto") return exact ? DType::kF32 : DType::kBF16;
  if (name == "f32") return DType::kF32;
  if (name == "bf16") return DType::kBF16;
  if (name == "f16") return DType::kF16;
  return absl::InvalidArgumentError(absl::StrCat(
      "kv-cache-dtype: expected auto, f32, bf16 or f16, got \"", name, "\""));
}

absl::StatusOr<std::unique_ptr<KernelTable>> MakeCudaTable(
    [[maybe_unused]] const ModelOptions& options) {
#if defined(SHOAL_WITH_CUDA)
  CudaOptions cuda;
  cuda.batch_invariant = options.batch_invariant;
  return MakeCudaKernelTable(cuda);
#else
  return absl::FailedPreconditionError("device: this build has no CUDA engine");
#endif
}

absl::StatusOr<std::unique_ptr<KernelTable>> MakeCpuTable(
    const ModelOptions& options) {
  absl::StatusOr<CpuIsa> isa = ChooseCpuIsa(options.cpu_isa);
  if (!isa.ok()) return isa.status();
  return MakeCpuKernelTable(
      *isa, options.threads > 0 ? options.threads : UsableCores());
}

// `auto` is the first CUDA device that opens, else the CPU; a device that lacks
// what was asked for is an error.
absl::StatusOr<std::unique_ptr<KernelTable>> MakeKernelTable(
    const ModelOptions& options) {
  if (options.make_kernels) return options.make_kernels();
  if (options.device == "cuda") return MakeCudaTable(options);
  if (options.device != "auto" && options.device != "cpu") {
    return absl::InvalidArgumentError(absl::StrCat(
        "device: expected auto, cpu or cuda, got \"", options.device, "\""));
  }
  if (options.device == "auto") {
    absl::StatusOr<std::unique_ptr<KernelTable>> cuda = MakeCudaTable(options);
    if (cuda.ok() || cuda.status().code() == absl::StatusCode::kNotFound) {
      return cuda;
    }
  }
  return MakeCpuTable(options);
}

absl::StatusOr<PlacementMode> ParsePlacement(const std::string& name) {
  if (name == "static") return PlacementMode::kStatic;
  if (name == "frequency") return PlacementMode::kFrequency;
  if (name == "dynamic") return PlacementMode::kDynamic;
  return absl::InvalidArgumentError(
      absl::StrCat("expert-placement: expected static, frequency or dynamic, "
                   "got \"",
                   name, "\""));
}

// A second tier for the experts, where the first is not the host's memory.
absl::Status AddHostTier(const ModelOptions& options, OpenedModel* model,
                         ExpertTierOptions* experts) {
  absl::StatusOr<PlacementMode> mode = ParsePlacement(options.expert_placement);
  if (!mode.ok()) return mode.status();
  if (model->kernels->memory_is_host()) {
    const char* flag = options.expert_memory >= 0 ? "expert-memory"
                       : options.expert_capacity_factor > 0
                           ? "expert-capacity-factor"
                           : nullptr;
    if (flag == nullptr) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        flag,
        ": the CPU computes in the memory that all experts lie in; it is for "
        "--device cuda"));
  }
  absl::StatusOr<std::unique_ptr<KernelTable>> host = MakeCpuTable(options);
  if (!host.ok()) return host.status();
  model->host_kernels = *std::move(host);
  experts->host = model->host_kernels.get();
  experts->device_bytes = options.expert_memory;
  experts->mode = *mode;
  experts->capacity_factor = options.expert_capacity_factor;
  return absl::OkStatus();
}

// Has the table keep what it packs in `folder`, a file a model and instruction
// set.
absl::Status KeepPacked(const std::string& folder, const Checkpoint& checkpoint,
                        KernelTable& kernels) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::FailedPreconditionError(absl::StrCat(
        "weight-cache: cannot make ", folder, ": ", error.message()));
  }
  const std::string model =
      std::filesystem::weakly_canonical(checkpoint.path(), error);
  const std::string name =
      absl::StrFormat("%s-%016x.%s.packed", model.substr(model.rfind('/') + 1),
                      XXH3_64bits(model.data(), model.size()), kernels.name());
  // Codes are widened to at most 8 bits, a matrix by less than a tile's rows.
  const int64_t most = 4 * checkpoint.file_bytes() + (int64_t{1} << 30);
  return kernels.KeepPacked(std::filesystem::path(folder) / name,
                            checkpoint.fingerprint(), most);
}

}  // namespace

int DefaultTokensPerStep(const KernelTable& kernels) {
  return kernels.memory_is_host() ? 512 : 2048;
}

int UsableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

absl::StatusOr<OpenedModel> OpenModel(const ModelOptions& options) {
  if (options.dtype != "auto" && options.dtype != "f32") {
    return absl::InvalidArgumentError(absl::StrCat(
        "dtype: expected auto or f32, got \"", options.dtype, "\""));
  }
  const bool exact = options.dtype == "f32";
  absl::StatusOr<DType> cache_dtype =
      ParseCacheDType(options.kv_cache_dtype, exact);
  if (!cache_dtype.ok()) return cache_dtype.status();

  OpenedModel model;
  absl::StatusOr<std::unique_ptr<KernelTable>> kernels =
      MakeKernelTable(options);
  if (!kernels.ok()) return kernels.status();
  model.kernels = *std::move(kernels);
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      LoadCheckpoint(options.path);
  if (!checkpoint.ok()) return checkpoint.status();
  model.checkpoint = *std::move(checkpoint);
  // Of the CPU only: an error where a device is asked for, for nothing where
  // `auto` found one.
  const bool keeps_packed =
      !options.weight_cache.empty() && !exact &&
      (model.kernels->memory_is_host() || options.device != "auto");
  if (keeps_packed) {
    absl::Status status =
        KeepPacked(options.weight_cache, *model.checkpoint, *model.kernels);
    if (!status.ok()) return status;
  }
  DecoderOptions decoder_options;
  decoder_options.precision = exact ? Precision::kExact : Precision::kFast;
  decoder_options.kv_cache_dtype = *cache_dtype;
  model.max_tokens_per_step = options.max_tokens_per_step > 0
                                  ? options.max_tokens_per_step
                                  : DefaultTokensPerStep(*model.kernels);
  decoder_options.max_tokens_per_step = model.max_tokens_per_step;
  decoder_options.index_topk = options.index_topk;
  decoder_options.mla_form = options.mla_form;
  absl::Status tiers = AddHostTier(options, &model, &decoder_options.experts);
  if (!tiers.ok()) return tiers;
  ProgressLine line;
  absl::StatusOr<std::unique_ptr<Decoder>> decoder =
      MakeDecoder(*model.checkpoint, decoder_options, *model.kernels,
                  [&line](double fraction, std::string_view what) {
                    line.Show(fraction, what);
                  });
  if (!decoder.ok()) return decoder.status();
  model.decoder = *std::move(decoder);
  absl::Status packed = model.kernels->EndPacking();
  if (!packed.ok()) return packed;
  return model;
}

}  // namespace shoal
