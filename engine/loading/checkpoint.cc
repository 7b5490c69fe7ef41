#include "engine/loading/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <span>
#include <system_error>
#include <utility>

#include "engine/loading/architecture.h"
#include "engine/loading/gguf.h"
#include "engine/loading/gguf_config.h"
#include "engine/loading/hf_config.h"
#include "engine/loading/load_error.h"
#include "engine/loading/safetensors.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxListed = 20;  // tensors one error names
constexpr std::string_view kScaleSuffix = "_scale_inv";

std::span<const int64_t> Shape(const ConstTensorView& view) {
  return {view.shape.data(), static_cast<size_t>(view.rank)};
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

bool IsWeight(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI8:
    case DType::kU8:
    case DType::kI16:
    case DType::kI32:
    case DType::kI64:
    case DType::kBool:
    case DType::kF8E8M0:
      return false;
    default:
      return true;
  }
}

// Tensors that files carry and inference does not read: frequencies that follow
// from the configuration, and layers past the last (multi-token prediction).
bool IsIgnored(const ModelConfig& config, std::string_view name) {
  if (name.ends_with("rotary_emb.inv_freq")) return true;
  if (name == "rope_freqs.weight" || name == "lm_head.weight") return true;
  if (name.starts_with("mtp.")) return true;
  constexpr std::string_view kLayer = "model.layers.";
  if (!name.starts_with(kLayer)) return false;
  int64_t layer = 0;
  size_t i = kLayer.size();
  for (; i < name.size() && name[i] >= '0' && name[i] <= '9' && i < 25; ++i) {
    layer = layer * 10 + (name[i] - '0');
  }
  return i > kLayer.size() && layer >= config.num_hidden_layers;
}

// Collects what is wrong with a checkpoint's tensors into one error.
class Complaints {
 public:
  void Add(std::string text) {
    if (++count_ <= kMaxListed) {
      list_ += Concat({list_.empty() ? "" : "; ", std::move(text)});
    }
  }
  absl::Status ToStatus(const std::string& file) const {
    if (count_ == 0) return absl::OkStatus();
    std::string more;
    if (count_ > kMaxListed) {
      more = Concat({"; and ", count_ - kMaxListed, " more"});
    }
    return absl::InvalidArgumentError(Concat({file, ": ", list_, more}));
  }

 private:
  size_t count_ = 0;
  std::string list_;
};

void CheckTensor(const TensorSpec& spec, const ConstTensorView& view,
                 Complaints* complaints) {
  const std::string name = Concat({"tensor ", Quoted(spec.name)});
  if (!std::ranges::equal(Shape(view), spec.shape)) {
    complaints->Add(Concat({name, ": expected shape ", ShapeString(spec.shape),
                            ", got ", ShapeString(Shape(view))}));
    return;
  }
  const char* expected = nullptr;
  switch (spec.kind) {
    case TensorSpec::Kind::kMatrix:
      if (!IsWeight(view.dtype)) expected = "a weight's type";
      break;
    case TensorSpec::Kind::kFloats:
      if (!IsFloat(view.dtype)) expected = "F32, F16 or BF16";
      break;
    case TensorSpec::Kind::kInts:
      if (view.dtype != DType::kI64 && view.dtype != DType::kI32) {
        expected = "I64 or I32";
      }
      break;
  }
  if (expected != nullptr) {
    complaints->Add(Concat(
        {name, ": expected ", expected, ", got ", DTypeName(view.dtype)}));
  }
}

// Tiles of a scaled weight that share a scale.
struct ScaleTile {
  int32_t rows = 0;
  int32_t cols = 0;
};

// Files say I8 of two FP4 values a byte, low half first; they are told by the
// scales beside them.
constexpr ScaleTile kFp4Tile = {1, 32};
ConstTensorView AsFp4(const ConstTensorView& bytes) {
  return ConstTensorView(bytes.data, DType::kF4E2M1,
                         {bytes.dim(0), 2 * bytes.dim(1)});
}

// Scales of an FP8 or FP4 weight, or a complaint.
void AddScales(const ScaleTile& tile, const std::string& name,
               const TensorMap& tensors, WeightView* weight,
               Complaints* complaints) {
  const auto it = tensors.find(Concat({name, kScaleSuffix}));
  if (it == tensors.end() || tile.rows == 0) {
    complaints->Add(Concat({"tensor ", Quoted(name), ": expected ",
                            Quoted(name + std::string(kScaleSuffix)),
                            " beside an F8 weight, got none"}));
    return;
  }
  const int64_t rows = tile.rows;
  const int64_t cols = tile.cols;
  const std::vector<int64_t> expected = {
      (weight->out_features() + rows - 1) / rows,
      (weight->in_features() + cols - 1) / cols};
  const ConstTensorView& scales = it->second;
  if (!std::ranges::equal(Shape(scales), expected) ||
      (scales.dtype != DType::kF32 && scales.dtype != DType::kF8E8M0)) {
    complaints->Add(Concat(
        {"tensor ", Quoted(it->first), ": expected F32 or F8_E8M0 of shape ",
         ShapeString(expected), ", got ", DTypeName(scales.dtype), " ",
         ShapeString(Shape(scales))}));
    return;
  }
  weight->scales = scales;
  weight->scale_rows = tile.rows;
  weight->scale_cols = tile.cols;
}

// The weights an architecture wants, out of `tensors` in Hugging Face's names.
absl::StatusOr<std::map<std::string, WeightView, std::less<>>> SelectWeights(
    const std::string& file, const ModelConfig& config,
    const TensorMap& tensors) {
  absl::StatusOr<const Architecture*> architecture =
      FindArchitecture(file, config.model_type);
  if (!architecture.ok()) return architecture.status();
  std::vector<TensorSpec> specs;
  (*architecture)->add_tensors(config, &specs);
  // A tied model may carry its head all the same; then it is that.
  const auto head = tensors.find("lm_head.weight");
  if (config.tie_word_embeddings && head != tensors.end()) {
    AddMatrix(&specs, "lm_head.weight", config.vocab_size, config.hidden_size);
  }

  std::map<std::string, WeightView, std::less<>> weights;
  std::set<std::string, std::less<>> known;
  Complaints complaints;
  for (const TensorSpec& spec : specs) {
    known.insert(spec.name);
    const auto it = tensors.find(spec.name);
    if (it == tensors.end()) {
      if (spec.optional) continue;
      complaints.Add(Concat({"tensor ", Quoted(spec.name), ": expected shape ",
                             ShapeString(spec.shape), ", got none"}));
      continue;
    }
    WeightView weight;
    weight.data = it->second;
    const std::string scales = Concat({spec.name, kScaleSuffix});
    const bool fp4 = spec.kind == TensorSpec::Kind::kMatrix &&
                     weight.data.dtype == DType::kI8 && weight.data.rank == 2 &&
                     tensors.contains(scales);
    if (fp4) weight.data = AsFp4(weight.data);
    CheckTensor(spec, weight.data, &complaints);
    if (fp4 || weight.data.dtype == DType::kF8E4M3) {
      known.insert(scales);
      const ScaleTile tile =
          fp4 ? kFp4Tile
              : ScaleTile{config.fp8_block_rows, config.fp8_block_cols};
      AddScales(tile, spec.name, tensors, &weight, &complaints);
    }
    weights[spec.name] = weight;
  }
  for (const auto& [name, view] : tensors) {
    if (known.contains(name) || IsIgnored(config, name)) continue;
    complaints.Add(Concat(
        {"tensor ", Quoted(name), ": expected no such tensor, got one"}));
  }
  absl::Status status = complaints.ToStatus(file);
  if (!status.ok()) return status;
  return weights;
}

// Adds a GGUF tensor under its Hugging Face name. Stacked matrices, which GGUF
// stores as one tensor of rank 3, become views of it: an expert's each, or for
// the heads of latent attention one of all rows. False if a name is taken.
bool AddGgufTensor(const ModelConfig& config, const std::string& name,
                   const ConstTensorView& view, TensorMap* tensors) {
  constexpr std::string_view kExperts = ".mlp.experts.";
  if (view.rank != 3 || IsIgnored(config, name)) {
    return tensors->emplace(name, view).second;
  }
  ConstTensorView matrix = view;
  matrix.rank = 2;
  matrix.shape = {view.dim(1), view.dim(2)};
  const size_t at = name.find(kExperts);
  if (at != std::string::npos && view.dim(0) == config.n_routed_experts) {
    const std::string prefix = name.substr(0, at + kExperts.size());
    const std::string suffix = name.substr(at + kExperts.size());
    const auto* data = static_cast<const uint8_t*>(view.data);
    for (int64_t e = 0; e < view.dim(0); ++e) {
      matrix.data = data + e * matrix.bytes();
      if (!tensors->emplace(Concat({prefix, e, ".", suffix}), matrix).second) {
        return false;
      }
    }
    return true;
  }
  if (name.ends_with("_b_proj.weight") &&
      view.dim(0) == config.num_attention_heads) {
    matrix.shape[0] *= view.dim(0);
    return tensors->emplace(name, matrix).second;
  }
  return tensors->emplace(name, view).second;
}

class GgufCheckpoint : public Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(
      const std::string& path) {
    auto checkpoint = std::make_unique<GgufCheckpoint>();
    auto file = GgufFile::Open(path);
    if (!file.ok()) return file.status();
    checkpoint->file_ = *std::move(file);
    auto config = ReadGgufConfig(*checkpoint->file_);
    if (!config.ok()) return config.status();
    TensorMap tensors;
    for (const auto& [name, view] : checkpoint->file_->tensors()) {
      if (!AddGgufTensor(*config, HfTensorName(name), view, &tensors)) {
        return BadField(path, Concat({"tensor ", Quoted(name)}),
                        "each tensor once", "two names for one");
      }
    }
    auto weights = SelectWeights(path, *config, tensors);
    if (!weights.ok()) return weights.status();
    checkpoint->config_ = *std::move(config);
    checkpoint->weights_ = *std::move(weights);
    checkpoint->container_ = "gguf";
    checkpoint->path_ = path;
    checkpoint->file_bytes_ = checkpoint->file_->file_bytes();
    checkpoint->fingerprint_ = checkpoint->file_->Fingerprint();
    return checkpoint;
  }

  const GgufFile* gguf() const override { return file_.get(); }
  void DropPages(const ConstTensorView& tensor) const override {
    file_->DropPages(tensor);
  }

 private:
  std::unique_ptr<GgufFile> file_;
};

class FolderCheckpoint : public Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(
      const std::string& path) {
    auto checkpoint = std::make_unique<FolderCheckpoint>();
    auto config = ReadHfConfig(path);
    if (!config.ok()) return config.status();
    auto folder = SafetensorsFolder::Open(path);
    if (!folder.ok()) return folder.status();
    checkpoint->folder_ = *std::move(folder);
    auto architecture = FindArchitecture(path, config->model_type);
    if (!architecture.ok()) return architecture.status();
    TensorMap tensors = checkpoint->folder_->tensors();
    if ((*architecture)->tensor_name != nullptr) {
      TensorMap renamed;
      for (const auto& [name, view] : tensors) {
        if (!renamed.emplace((*architecture)->tensor_name(name), view).second) {
          return BadField(path, Concat({"tensor ", Quoted(name)}),
                          "each tensor once", "two names for one");
        }
      }
      tensors = std::move(renamed);
    }
    auto weights = SelectWeights(path, *config, tensors);
    if (!weights.ok()) return weights.status();
    checkpoint->config_ = *std::move(config);
    checkpoint->weights_ = *std::move(weights);
    checkpoint->container_ = "safetensors";
    checkpoint->path_ = path;
    checkpoint->file_bytes_ = checkpoint->folder_->file_bytes();
    checkpoint->fingerprint_ = checkpoint->folder_->Fingerprint();
    return checkpoint;
  }

  void DropPages(const ConstTensorView& tensor) const override {
    folder_->DropPages(tensor);
  }

 private:
  std::unique_ptr<SafetensorsFolder> folder_;
};

}  // namespace

absl::StatusOr<WeightView> Checkpoint::Find(std::string_view name) const {
  const auto it = weights_.find(name);
  if (it == weights_.end()) {
    return absl::NotFoundError(
        Concat({path_, ": tensor ", Quoted(name), ": not in the model"}));
  }
  return it->second;
}

bool Checkpoint::Contains(std::string_view name) const {
  return weights_.find(name) != weights_.end();
}

absl::StatusOr<std::unique_ptr<Checkpoint>> LoadCheckpoint(
    const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(
        Concat({path,
                ": model: expected a GGUF file or a Hugging Face "
                "folder, got no such path"}));
  }
  return fs::is_directory(status) ? FolderCheckpoint::Open(path)
                                  : GgufCheckpoint::Open(path);
}

}  // namespace shoal
