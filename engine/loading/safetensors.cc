#include "engine/loading/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "engine/loading/byte_cursor.h"
#include "engine/loading/json_value.h"
#include "engine/loading/load_error.h"
#include "engine/loading/safetensors_header.h"
#include "kernels/check.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

// The reference implementation's limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

std::span<const int64_t> Shape(const ConstTensorView& view) {
  return {view.shape.data(), static_cast<size_t>(view.rank)};
}

absl::Status CheckExtent(const std::string& file, const SafetensorsEntry& entry,
                         uint64_t data_bytes) {
  const std::string field = Concat({"tensor ", Quoted(entry.name)});
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return BadField(file, Concat({field, " data_offsets"}),
                    Concat({"begin <= end <= ", data_bytes}),
                    Concat({"[", entry.begin, ", ", entry.end, "]"}));
  }
  int64_t bytes = GetDTypeInfo(entry.view.dtype).block_bytes;
  for (int64_t size : Shape(entry.view)) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return BadField(file, Concat({field, " shape"}),
                      "a product below 2^63 bytes",
                      ShapeString(Shape(entry.view)));
    }
  }
  if (entry.end - entry.begin != static_cast<uint64_t>(bytes)) {
    return BadField(file, Concat({field, " data_offsets"}),
                    Concat({bytes, " bytes for ", DTypeName(entry.view.dtype),
                            " ", ShapeString(Shape(entry.view))}),
                    Concat({entry.end - entry.begin, " bytes"}));
  }
  return absl::OkStatus();
}

// Each byte of the data belongs to exactly one tensor. REQUIRES: every entry
// passed CheckExtent().
absl::Status CheckTiling(const std::string& file,
                         const std::vector<SafetensorsEntry>& entries,
                         uint64_t data_bytes) {
  std::vector<const SafetensorsEntry*> order;
  for (const SafetensorsEntry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  uint64_t end = 0;
  for (const SafetensorsEntry* entry : order) {
    if (entry->begin != end) {
      return BadField(
          file, Concat({"tensor ", Quoted(entry->name), " data_offsets"}),
          Concat({"to start at ", end, ", where the tensor before it ends"}),
          entry->begin);
    }
    end = entry->end;
  }
  if (end != data_bytes) {
    return BadField(file, "data",
                    Concat({"tensors that fill ", data_bytes, " bytes"}),
                    Concat({end, " bytes of tensors"}));
  }
  return absl::OkStatus();
}

bool IsPlainFileName(std::string_view name) {
  return name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos &&
         name.ends_with(".safetensors");
}

absl::Status NoWeights(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth" ||
        extension == ".pkl") {
      return absl::UnimplementedError(
          Concat({folder, ": weights: expected model.safetensors, got only ",
                  Quoted(entry.path().filename().string()),
                  " (pickled weights can run code and are not read)"}));
    }
  }
  return absl::NotFoundError(
      Concat({folder,
              ": weights: expected model.safetensors or "
              "model.safetensors.index.json, got neither"}));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  auto mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  std::unique_ptr<SafetensorsFile> result(new SafetensorsFile());
  result->file_ = std::move(*mapped);
  const MappedFile& file = *result->file_;
  ByteCursor cursor(file.data(), file.size());
  uint64_t header_bytes;
  if (!cursor.Read(&header_bytes)) {
    return BadField(path, "header length", "8 bytes",
                    Concat({file.size(), " bytes"}));
  }
  const uint64_t most =
      std::min(kMaxHeaderBytes, static_cast<uint64_t>(cursor.remaining()));
  if (header_bytes > most) {
    return BadField(path, "header length", Concat({"at most ", most}),
                    header_bytes);
  }
  auto entries = ParseSafetensorsHeader(
      path, file.contents().substr(sizeof(header_bytes), header_bytes));
  if (!entries.ok()) return entries.status();
  const uint64_t data_bytes =
      static_cast<uint64_t>(cursor.remaining()) - header_bytes;
  const uint8_t* data = cursor.current() + header_bytes;
  for (const SafetensorsEntry& entry : *entries) {
    auto status = CheckExtent(path, entry, data_bytes);
    if (!status.ok()) return status;
  }
  auto status = CheckTiling(path, *entries, data_bytes);
  if (!status.ok()) return status;
  for (SafetensorsEntry& entry : *entries) {
    entry.view.data = data + entry.begin;
    result->tensors_.emplace(std::move(entry.name), entry.view);
  }
  return result;
}

absl::StatusOr<std::unique_ptr<SafetensorsFolder>> SafetensorsFolder::Open(
    const std::string& folder) {
  std::unique_ptr<SafetensorsFolder> result(new SafetensorsFolder());
  const std::string index = folder + "/model.safetensors.index.json";
  const std::string single = folder + "/model.safetensors";
  std::error_code ignored;
  absl::Status status;
  if (fs::exists(index, ignored)) {
    status = result->AddIndexed(folder, index);
  } else if (fs::exists(single, ignored)) {
    status = result->AddShard(single);
  } else {
    status = NoWeights(folder);
  }
  if (!status.ok()) return status;
  return result;
}

absl::Status SafetensorsFolder::AddShard(const std::string& path) {
  auto shard = SafetensorsFile::Open(path);
  if (!shard.ok()) return shard.status();
  for (const auto& [name, view] : (*shard)->tensors()) {
    if (!tensors_.emplace(name, view).second) {
      return BadField(path, Concat({"tensor ", Quoted(name)}),
                      "one of that name in all shards", "a duplicate");
    }
  }
  shards_.push_back(std::move(*shard));
  return absl::OkStatus();
}

absl::Status SafetensorsFolder::AddIndexed(const std::string& folder,
                                           const std::string& index) {
  auto json = ParseJsonFile(index);
  if (!json.ok()) return json.status();
  const JsonValue::Object* weight_map = nullptr;
  if (const auto* root = json->as_object()) {
    const auto it = root->find("weight_map");
    if (it != root->end()) weight_map = it->second.as_object();
  }
  if (weight_map == nullptr) {
    return BadField(index, "weight_map", "an object", "none");
  }
  std::set<std::string> names;
  for (const auto& [tensor, value] : *weight_map) {
    const std::string* name = value.as_string();
    if (name == nullptr || !IsPlainFileName(*name)) {
      return BadField(index, Concat({"weight_map ", Quoted(tensor)}),
                      "the name of a .safetensors file in the same folder",
                      value.Describe());
    }
    names.insert(*name);
  }
  std::map<std::string, const SafetensorsFile*> by_name;
  for (const std::string& name : names) {
    auto status = AddShard(folder + "/" + name);
    if (!status.ok()) return status;
    by_name[name] = shards_.back().get();
  }
  for (const auto& [tensor, value] : *weight_map) {
    const std::string& name = *value.as_string();
    if (!by_name[name]->tensors().contains(tensor)) {
      return BadField(index, Concat({"weight_map ", Quoted(tensor)}),
                      Concat({"a tensor of ", Quoted(name)}),
                      "no such tensor there");
    }
  }
  return absl::OkStatus();
}

int64_t SafetensorsFolder::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& shard : shards_) bytes += shard->file().size();
  return bytes;
}

std::string SafetensorsFolder::Fingerprint() const {
  std::string text;
  for (const auto& shard : shards_) text += shard->file().Fingerprint() + "\n";
  return text;
}

void SafetensorsFolder::DropPages(const ConstTensorView& tensor) const {
  for (const auto& shard : shards_) {
    if (shard->file().Contains(tensor.data, tensor.bytes())) {
      shard->file().DropPages(tensor.data, tensor.bytes());
      return;
    }
  }
  SHOAL_CHECK(false);
}

}  // namespace shoal
