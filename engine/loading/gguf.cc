#include "engine/loading/gguf.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <utility>

#include "engine/loading/load_error.h"
#include "kernels/check.h"

namespace shoal {
namespace {

struct GgmlType {
  uint32_t id;
  std::string_view name;
  std::optional<DType> dtype;  // nullopt: known, not decoded here
};

// Ids of ggml's enum; gaps are types that were withdrawn.
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", DType::kF32},        {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},      {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},      {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},      {9, "Q8_1", std::nullopt},
    {10, "Q2_K", DType::kQ2_K},     {11, "Q3_K", DType::kQ3_K},
    {12, "Q4_K", DType::kQ4_K},     {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},     {15, "Q8_K", std::nullopt},
    {16, "IQ2_XXS", std::nullopt},  {17, "IQ2_XS", std::nullopt},
    {18, "IQ3_XXS", std::nullopt},  {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", DType::kIQ4_NL}, {21, "IQ3_S", std::nullopt},
    {22, "IQ2_S", std::nullopt},    {23, "IQ4_XS", DType::kIQ4_XS},
    {24, "I8", DType::kI8},         {25, "I16", DType::kI16},
    {26, "I32", DType::kI32},       {27, "I64", DType::kI64},
    {28, "F64", DType::kF64},       {29, "IQ1_M", std::nullopt},
    {30, "BF16", DType::kBF16},     {34, "TQ1_0", std::nullopt},
    {35, "TQ2_0", std::nullopt},    {39, "MXFP4", DType::kMXFP4},
};

absl::StatusOr<DType> ToDType(const std::string& file, const std::string& field,
                              uint32_t id) {
  for (const GgmlType& type : kGgmlTypes) {
    if (type.id != id) continue;
    if (type.dtype) return *type.dtype;
    return absl::UnimplementedError(
        Concat({file, ": ", field, ": expected a supported element type, got ",
                type.name}));
  }
  return absl::UnimplementedError(Concat(
      {file, ": ", field, ": expected a known element type, got type ", id}));
}

struct TensorInfo {
  std::string name;
  ConstTensorView view;  // data is set once the data section is known
  uint64_t offset = 0;
  int64_t bytes = 0;
};

absl::Status ReadShape(const std::string& file, const std::string& field,
                       ByteCursor& cursor, ConstTensorView& view) {
  uint32_t rank;
  if (!cursor.Read(&rank)) {
    return BadField(file, field, "a rank", "the end of the file");
  }
  if (rank < 1 || rank > kMaxRank) {
    return BadField(file, Concat({field, " rank"}), "1 to 4", rank);
  }
  view.rank = static_cast<int>(rank);
  int64_t elements = 1;
  for (int i = view.rank - 1; i >= 0; --i) {  // ne[0] is the last dimension
    uint64_t size;
    if (!cursor.Read(&size)) {
      return BadField(file, field, Concat({rank, " dimensions"}),
                      "the end of the file");
    }
    if (size == 0 || size > INT64_MAX ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(size),
                               &elements)) {
      return BadField(file, Concat({field, " shape"}),
                      "dimensions over 0 whose product is below 2^63",
                      Concat({"ne[", view.rank - 1 - i, "] = ", size}));
    }
    view.shape[i] = static_cast<int64_t>(size);
  }
  return absl::OkStatus();
}

// One entry of the tensor table.
absl::StatusOr<TensorInfo> ReadTensorInfo(const std::string& file,
                                          uint64_t index, ByteCursor& cursor) {
  std::string_view name;
  if (!cursor.ReadString(&name)) {
    return BadField(
        file, Concat({"tensor ", index}),
        Concat({"a name at byte ", cursor.position()}),
        Concat({cursor.remaining(), " bytes to the end of the file"}));
  }
  TensorInfo info;
  info.name = name;
  const std::string field = Concat({"tensor ", Quoted(name)});
  auto status = ReadShape(file, field, cursor, info.view);
  if (!status.ok()) return status;
  uint32_t type;
  if (!cursor.Read(&type) || !cursor.Read(&info.offset)) {
    return BadField(file, field, "a type and an offset", "the end of the file");
  }
  auto dtype = ToDType(file, field, type);
  if (!dtype.ok()) return dtype.status();
  info.view.dtype = *dtype;
  const DTypeInfo& dtype_info = GetDTypeInfo(*dtype);
  const int64_t columns = info.view.dim(info.view.rank - 1);
  if (columns % dtype_info.block_elements != 0) {
    return BadField(file, Concat({field, " ne[0]"}),
                    Concat({"a multiple of ", dtype_info.block_elements, " (",
                            dtype_info.name, ")"}),
                    columns);
  }
  const int64_t blocks = info.view.num_elements() / dtype_info.block_elements;
  if (__builtin_mul_overflow(blocks, dtype_info.block_bytes, &info.bytes)) {
    return BadField(file, Concat({field, " size"}), "below 2^63 bytes",
                    Concat({blocks, " blocks"}));
  }
  return info;
}

// Alignment of the data section.
absl::StatusOr<int64_t> ReadAlignment(const std::string& file,
                                      const GgufMetadata& metadata) {
  auto alignment = metadata.GetInt("general.alignment", 32);
  if (!alignment.ok()) return alignment.status();
  constexpr int64_t kLargest = 1 << 20;
  if (*alignment < 1 || *alignment > kLargest ||
      (*alignment & (*alignment - 1)) != 0) {
    return BadField(file, "metadata \"general.alignment\"",
                    "a power of two up to 1048576", *alignment);
  }
  return alignment;
}

// Places the tensors in the data section that starts at `data_start`.
absl::Status PlaceTensors(const MappedFile& file, int64_t data_start,
                          int64_t alignment, std::vector<TensorInfo>& infos) {
  const int64_t data_bytes = std::max<int64_t>(file.size() - data_start, 0);
  for (TensorInfo& info : infos) {
    const std::string field = Concat({"tensor ", Quoted(info.name)});
    if (info.offset % static_cast<uint64_t>(alignment) != 0) {
      return BadField(file.path(), Concat({field, " offset"}),
                      Concat({"a multiple of ", alignment}), info.offset);
    }
    if (info.bytes > data_bytes ||
        info.offset > static_cast<uint64_t>(data_bytes - info.bytes)) {
      return BadField(file.path(), field,
                      Concat({info.bytes, " bytes at offset ", info.offset}),
                      Concat({"a data section of ", data_bytes, " bytes"}));
    }
    info.view.data = file.data() + data_start + info.offset;
  }
  std::vector<const TensorInfo*> order;
  order.reserve(infos.size());
  for (const TensorInfo& info : infos) order.push_back(&info);
  std::sort(order.begin(), order.end(),
            [](const TensorInfo* a, const TensorInfo* b) {
              return a->offset < b->offset;
            });
  for (size_t i = 1; i < order.size(); ++i) {
    const uint64_t end =
        order[i - 1]->offset + static_cast<uint64_t>(order[i - 1]->bytes);
    if (order[i]->offset < end) {
      return BadField(file.path(),
                      Concat({"tensor ", Quoted(order[i]->name), " offset"}),
                      Concat({"at least ", end, ", the end of ",
                              Quoted(order[i - 1]->name)}),
                      order[i]->offset);
    }
  }
  return absl::OkStatus();
}

struct Header {
  uint32_t version;
  uint64_t tensor_count;
  uint64_t metadata_count;
};

absl::StatusOr<Header> ReadHeader(const MappedFile& file, ByteCursor& cursor) {
  if (!HasGgufMagic(file)) {
    return BadField(file.path(), "magic number", "\"GGUF\"",
                    Quoted(file.contents().substr(0, 4)));
  }
  Header header;
  uint32_t magic;
  if (!cursor.Read(&magic) || !cursor.Read(&header.version) ||
      !cursor.Read(&header.tensor_count) ||
      !cursor.Read(&header.metadata_count)) {
    return BadField(file.path(), "header", "24 bytes",
                    Concat({file.size(), " bytes"}));
  }
  if (header.version != 2 && header.version != 3) {
    const bool swapped = (header.version & 0xffffu) == 0;
    return absl::UnimplementedError(
        Concat({file.path(), ": version: expected 2 or 3, got ", header.version,
                swapped ? " (a big-endian file)" : ""}));
  }
  return header;
}

// "dir/name-00001-of-00003.gguf" with another part number; nullopt when `path`
// is not named as part 1 of `count`.
std::optional<std::string> PartPath(const std::string& path, int64_t part,
                                    int64_t count) {
  std::array<char, 64> suffix;
  std::snprintf(suffix.data(), suffix.size(), "-00001-of-%05d.gguf",
                static_cast<int>(count));
  const std::string_view first = suffix.data();
  if (path.size() < first.size() || !path.ends_with(first)) return {};
  const std::string stem = path.substr(0, path.size() - first.size());
  std::snprintf(suffix.data(), suffix.size(), "-%05d-of-%05d.gguf",
                static_cast<int>(part), static_cast<int>(count));
  return stem + suffix.data();
}

}  // namespace

bool HasGgufMagic(const MappedFile& file) {
  return file.contents().starts_with("GGUF");
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(
    const std::string& path) {
  std::unique_ptr<GgufFile> gguf(new GgufFile());
  auto status = gguf->AddPart(path, &gguf->metadata_);
  if (!status.ok()) return status;
  status = gguf->AddSplits(path);
  if (!status.ok()) return status;
  return gguf;
}

absl::Status GgufFile::AddPart(const std::string& path,
                               GgufMetadata* metadata) {
  auto mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  parts_.push_back(std::move(*mapped));
  const MappedFile& file = *parts_.back();
  ByteCursor cursor(file.data(), file.size());
  auto header = ReadHeader(file, cursor);
  if (!header.ok()) return header.status();
  version_ = header->version;
  auto parsed = GgufMetadata::Parse(path, header->metadata_count, cursor);
  if (!parsed.ok()) return parsed.status();
  *metadata = std::move(*parsed);
  // A table entry takes 32 bytes at least: name length, rank, one dimension,
  // type and offset.
  constexpr uint64_t kSmallestInfo = 32;
  const uint64_t most =
      static_cast<uint64_t>(cursor.remaining()) / kSmallestInfo;
  if (header->tensor_count > most) {
    return BadField(path, "tensor count", Concat({"at most ", most}),
                    header->tensor_count);
  }
  std::vector<TensorInfo> infos;
  infos.reserve(header->tensor_count);
  for (uint64_t i = 0; i < header->tensor_count; ++i) {
    auto info = ReadTensorInfo(path, i, cursor);
    if (!info.ok()) return info.status();
    infos.push_back(std::move(*info));
  }
  auto alignment = ReadAlignment(path, *metadata);
  if (!alignment.ok()) return alignment.status();
  const int64_t data_start =
      (cursor.position() + *alignment - 1) / *alignment * *alignment;
  auto status = PlaceTensors(file, data_start, *alignment, infos);
  if (!status.ok()) return status;
  for (TensorInfo& info : infos) {
    if (!tensors_.emplace(info.name, info.view).second) {
      return BadField(path, Concat({"tensor ", Quoted(info.name)}),
                      "one of that name", "a duplicate");
    }
  }
  return absl::OkStatus();
}

absl::Status GgufFile::AddSplits(const std::string& first_path) {
  auto count = metadata_.GetInt("split.count", 1);
  if (!count.ok()) return count.status();
  auto number = metadata_.GetInt("split.no", 0);
  if (!number.ok()) return number.status();
  if (*count <= 1) return absl::OkStatus();
  if (*number != 0) {
    return BadField(first_path, "metadata \"split.no\"",
                    "0, the first part of the set", *number);
  }
  constexpr int64_t kMostParts = 99999;
  if (*count > kMostParts) {
    return BadField(first_path, "metadata \"split.count\"",
                    Concat({"at most ", kMostParts}), *count);
  }
  for (int64_t part = 2; part <= *count; ++part) {
    const auto path = PartPath(first_path, part, *count);
    if (!path) {
      return BadField(first_path, "file name",
                      "...-00001-of-N.gguf as split.count says",
                      Concat({"split.count ", *count}));
    }
    GgufMetadata metadata;
    auto status = AddPart(*path, &metadata);
    if (!status.ok()) return status;
    auto part_number = metadata.GetInt("split.no");
    if (!part_number.ok()) return part_number.status();
    if (*part_number != part - 1) {
      return BadField(*path, "metadata \"split.no\"", part - 1, *part_number);
    }
  }
  auto total = metadata_.GetInt("split.tensors.count",
                                static_cast<int64_t>(tensors_.size()));
  if (!total.ok()) return total.status();
  if (*total != static_cast<int64_t>(tensors_.size())) {
    return BadField(first_path, "metadata \"split.tensors.count\"",
                    Concat({tensors_.size(), " as the parts have"}), *total);
  }
  return absl::OkStatus();
}

int64_t GgufFile::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& part : parts_) bytes += part->size();
  return bytes;
}

std::string GgufFile::Fingerprint() const {
  std::string text;
  for (const auto& part : parts_) text += part->Fingerprint() + "\n";
  return text;
}

void GgufFile::DropPages(const ConstTensorView& tensor) const {
  for (const auto& part : parts_) {
    if (part->Contains(tensor.data, tensor.bytes())) {
      part->DropPages(tensor.data, tensor.bytes());
      return;
    }
  }
  SHOAL_CHECK(false);
}

}  // namespace shoal
