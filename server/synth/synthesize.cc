#include "server/synth/synthesize.h"

#include <cmath>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "engine/loading/load_error.h"
#include "server/synth/file_writer.h"
#include "server/synth/geometry.h"
#include "server/synth/gguf_model.h"
#include "server/synth/gguf_writer.h"
#include "server/synth/hf_model.h"
#include "server/synth/model_plan.h"
#include "server/synth/safetensors_writer.h"
#include "server/synth/vocabulary.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

constexpr double kMaxRouterSkew = 10;
// Headers and tokenizer, generously.
constexpr int64_t kOtherBytes = 64 << 20;

absl::Status Bad(std::string_view option, const MessagePart& expected,
                 const MessagePart& got) {
  return absl::InvalidArgumentError(
      Concat({option, ": expected ", expected.text(), ", got ", got.text()}));
}

absl::StatusOr<Geometry> ChooseGeometry(const SynthOptions& options) {
  absl::StatusOr<Geometry> geometry = FindGeometry(options.geometry);
  if (!geometry.ok()) return geometry;
  ModelConfig& config = geometry->config;
  if (options.layers < 0 || options.layers > config.num_hidden_layers) {
    return Bad("layers",
               Concat({"1 to ", config.num_hidden_layers, ", or 0 for all"}),
               options.layers);
  }
  if (options.layers > 0) {
    config.num_hidden_layers = options.layers;
    if (geometry->v4.has_value()) {
      geometry->v4->compress_ratios.resize(options.layers);
    }
  }
  // Negated, so that NaN is refused.
  if (!(options.router_skew >= 0 && options.router_skew <= kMaxRouterSkew)) {
    return Bad("router-skew", Concat({"0 to ", kMaxRouterSkew}),
               options.router_skew);
  }
  if (options.router_skew > 0 && config.n_routed_experts == 0) {
    return Bad("router-skew",
               Concat({"0, as ", geometry->name, " has no experts"}),
               options.router_skew);
  }
  return geometry;
}

// Weight files that a model in `folder` may have, which would not all be
// overwritten by another one's.
std::vector<fs::path> WeightFiles(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("model") &&
        (name.ends_with(".safetensors") ||
         name.ends_with(".safetensors.index.json"))) {
      files.push_back(entry.path());
    }
  }
  return files;
}

// Of what is at `path` and would be replaced; an error if it must not be.
absl::StatusOr<int64_t> BytesToReplace(const SynthOptions& options,
                                       bool is_folder) {
  std::error_code error;
  const fs::file_status status = fs::status(options.path, error);
  if (!fs::exists(status)) return 0;
  if (!options.force) {
    return absl::AlreadyExistsError(
        Concat({options.path, ": exists; --force replaces it"}));
  }
  if (fs::is_directory(status) != is_folder ||
      (!is_folder && !fs::is_regular_file(status))) {
    return Bad(options.path, is_folder ? "a folder for this format" : "a file",
               fs::is_directory(status) ? "a folder" : "something else");
  }
  // A file is replaced when the new one is whole: both need room.
  int64_t bytes = 0;
  if (!is_folder) return bytes;
  for (const fs::path& file : WeightFiles(options.path)) {
    const uintmax_t size = fs::file_size(file, error);
    if (!error) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

// The configuration comes last: without it a folder is not taken for a model.
absl::Status WriteFolder(const SynthOptions& options, const Geometry& geometry,
                         WeightFormat format,
                         const std::vector<PlannedTensor>& tensors,
                         TensorFiller& filler, const BytesWritten& written) {
  const std::string& folder = options.path;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    return absl::InvalidArgumentError(
        Concat({folder, ": cannot create: ", error.message()}));
  }
  fs::remove(folder + "/config.json", error);
  for (const fs::path& file : WeightFiles(folder)) fs::remove(file, error);
  absl::Status status = WriteTokenizerFiles(folder, geometry.config.vocab_size);
  if (status.ok()) {
    status = WriteSafetensors(folder, tensors, options.max_shard_bytes, filler,
                              written);
  }
  if (!status.ok()) return status;
  return WriteFile(folder + "/config.json", HfConfigJson(geometry, format));
}

}  // namespace

absl::StatusOr<SynthReport> Synthesize(const SynthOptions& options) {
  absl::StatusOr<WeightFormat> format = ParseWeightFormat(options.format);
  if (!format.ok()) return format.status();
  absl::StatusOr<Geometry> geometry = ChooseGeometry(options);
  if (!geometry.ok()) return geometry.status();
  if (options.path.empty()) return Bad("out", "a path", "none");
  const bool is_folder = !IsGguf(*format);
  absl::StatusOr<int64_t> replaced = BytesToReplace(options, is_folder);
  if (!replaced.ok()) return replaced.status();

  const std::vector<PlannedTensor> tensors =
      PlanTensors(*geometry, *format, options.router_skew);
  SynthReport report;
  report.num_tensors = std::ssize(tensors);
  for (const PlannedTensor& tensor : tensors) {
    report.weight_bytes += tensor.bytes();
  }
  absl::Status status = CheckDiskRoom(
      options.path, report.weight_bytes + kOtherBytes - *replaced);
  if (!status.ok()) return status;

  TensorFiller filler(options.seed);
  int64_t done = 0;
  const BytesWritten written = [&](int64_t bytes) {
    done += bytes;
    if (options.progress) options.progress(done, report.weight_bytes);
  };
  if (is_folder) {
    status = WriteFolder(options, *geometry, *format, tensors, filler, written);
  } else {
    GgufMetadataWriter metadata;
    AddModelMetadata(*geometry, &metadata);
    AddTokenizerMetadata(geometry->config.vocab_size, &metadata);
    status = WriteGguf(options.path, metadata, tensors, filler, written);
  }
  if (!status.ok()) return status;
  return report;
}

}  // namespace shoal
