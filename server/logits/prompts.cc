#include <cstring>
#include <memory>
#include <utility>

#include "engine/loading/load_error.h"
#include "engine/loading/safetensors.h"
#include "server/logits/logits.h"

namespace shoal {
namespace {

std::string InputName(size_t prompt) {
  return Concat({"prompt", prompt, ".input_ids"});
}

absl::StatusOr<std::vector<int32_t>> ReadIds(const std::string& path,
                                             const std::string& name,
                                             const ConstTensorView& view,
                                             int64_t vocab_size) {
  const std::string tensor = Concat({"tensor ", Quoted(name)});
  if (view.dtype != DType::kI64) {
    return BadField(path, tensor, "I64", DTypeName(view.dtype));
  }
  if (view.rank != 1 || view.dim(0) == 0) {
    return BadField(
        path, tensor, "one axis of one token or more",
        ShapeString({view.shape.data(), static_cast<size_t>(view.rank)}));
  }
  std::vector<int32_t> ids;
  const auto* bytes = static_cast<const uint8_t*>(view.data);
  for (int64_t i = 0; i < view.dim(0); ++i) {
    int64_t id;  // at any alignment
    std::memcpy(&id, bytes + i * sizeof(id), sizeof(id));
    if (id < 0 || id >= vocab_size) {
      return BadField(path, Concat({tensor, "[", i, "]"}),
                      Concat({"0 to ", vocab_size - 1}), id);
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

}  // namespace

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadPrompts(
    const std::string& path, int64_t vocab_size) {
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> file =
      SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  const TensorMap& tensors = (*file)->tensors();
  std::vector<std::vector<int32_t>> prompts;
  for (auto it = tensors.find(InputName(0)); it != tensors.end();
       it = tensors.find(InputName(prompts.size()))) {
    absl::StatusOr<std::vector<int32_t>> ids =
        ReadIds(path, it->first, it->second, vocab_size);
    if (!ids.ok()) return ids.status();
    prompts.push_back(*std::move(ids));
  }
  // What is not reached by counting: no prompt at all, or a gap.
  size_t named = 0;
  for (const auto& [name, view] : tensors) {
    if (name.starts_with("prompt") && name.ends_with(".input_ids")) ++named;
  }
  if (prompts.empty() || named != prompts.size()) {
    return BadField(path,
                    Concat({"tensor ", Quoted(InputName(prompts.size()))}),
                    "ids of the prompt", "none");
  }
  return prompts;
}

}  // namespace shoal
