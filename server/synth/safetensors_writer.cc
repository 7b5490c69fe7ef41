#include "server/synth/safetensors_writer.h"

#include <bit>
#include <memory>
#include <span>
#include <string_view>

#include "absl/strings/str_format.h"
#include "engine/loading/load_error.h"
#include "nlohmann/json.hpp"
#include "server/synth/file_writer.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;
using Shard = std::span<const PlannedTensor>;

static_assert(std::endian::native == std::endian::little);

std::vector<Shard> Split(const std::vector<PlannedTensor>& tensors,
                         int64_t max_bytes) {
  std::vector<Shard> shards;
  size_t first = 0;
  int64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t more = tensors[i].bytes();
    if (i > first && bytes + more > max_bytes) {
      shards.push_back(Shard(tensors).subspan(first, i - first));
      first = i;
      bytes = 0;
    }
    bytes += more;
  }
  shards.push_back(Shard(tensors).subspan(first));
  return shards;
}

// FP4 is stored as pairs, which the format knows as I8.
Json Describe(const PlannedTensor& tensor, int64_t begin) {
  std::vector<int64_t> shape = tensor.shape;
  std::string dtype(DTypeName(tensor.dtype));
  if (tensor.dtype == DType::kF4E2M1) {
    dtype = "I8";
    shape.back() /= 2;
  }
  return {{"dtype", dtype},
          {"shape", shape},
          {"data_offsets", {begin, begin + tensor.bytes()}}};
}

absl::Status WriteShard(const std::string& path, Shard tensors,
                        TensorFiller& filler, const BytesWritten& written) {
  absl::StatusOr<std::unique_ptr<FileWriter>> file = FileWriter::Create(path);
  if (!file.ok()) return file.status();
  absl::Status status = (*file)->Append(SafetensorsHeader(tensors));
  for (const PlannedTensor& tensor : tensors) {
    if (!status.ok()) return status;
    status = filler.Fill(tensor, [&](std::span<const uint8_t> bytes) {
      written(std::ssize(bytes));
      return (*file)->Append(bytes);
    });
  }
  return status.ok() ? (*file)->Close() : status;
}

}  // namespace

std::string SafetensorsHeader(Shard tensors) {
  Json json = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (const PlannedTensor& tensor : tensors) {
    json[tensor.name] = Describe(tensor, offset);
    offset += tensor.bytes();
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data starts aligned
  const uint64_t size = text.size();
  std::string header(reinterpret_cast<const char*>(&size), sizeof(size));
  return header + text;
}

absl::Status WriteSafetensors(const std::string& folder,
                              const std::vector<PlannedTensor>& tensors,
                              int64_t max_shard_bytes, TensorFiller& filler,
                              const BytesWritten& written) {
  const std::vector<Shard> shards = Split(tensors, max_shard_bytes);
  if (shards.size() == 1) {
    return WriteShard(folder + "/model.safetensors", shards[0], filler,
                      written);
  }
  Json files = Json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    absl::Status status =
        WriteShard(Concat({folder, "/", name}), shards[i], filler, written);
    if (!status.ok()) return status;
    for (const PlannedTensor& tensor : shards[i]) {
      files[tensor.name] = name;
      total += tensor.bytes();
    }
  }
  const Json index = {{"metadata", {{"total_size", total}}},
                      {"weight_map", std::move(files)}};
  return WriteFile(folder + "/model.safetensors.index.json", index.dump(1));
}

}  // namespace shoal
