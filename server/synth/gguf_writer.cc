#include "server/synth/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <span>

#include "kernels/check.h"
#include "server/synth/file_writer.h"

namespace shoal {
namespace {

constexpr int64_t kAlignment = 32;  // what readers assume unless told otherwise

static_assert(std::endian::native == std::endian::little);

template <typename T>
void Put(T value, std::string* bytes) {
  bytes->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutText(std::string_view text, std::string* bytes) {
  Put<uint64_t>(text.size(), bytes);
  bytes->append(text);
}

uint32_t GgmlType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kQ4_0:
      return 2;
    case DType::kQ8_0:
      return 8;
    case DType::kQ4_K:
      return 12;
    case DType::kI64:
      return 27;
    case DType::kBF16:
      return 30;
    default:
      SHOAL_CHECK(false);
      return 0;
  }
}

int64_t Aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void GgufMetadataWriter::Begin(std::string_view key, GgufType type) {
  ++count_;
  PutText(key, &bytes_);
  Put(static_cast<uint32_t>(type), &bytes_);
}

void GgufMetadataWriter::PutU32(std::string_view key, int64_t value) {
  SHOAL_CHECK(value >= 0 && value < int64_t{1} << 32);
  Begin(key, GgufType::kU32);
  Put(static_cast<uint32_t>(value), &bytes_);
}

void GgufMetadataWriter::PutF32(std::string_view key, double value) {
  Begin(key, GgufType::kF32);
  Put(static_cast<float>(value), &bytes_);
}

void GgufMetadataWriter::PutBool(std::string_view key, bool value) {
  Begin(key, GgufType::kBool);
  Put(static_cast<uint8_t>(value), &bytes_);
}

void GgufMetadataWriter::PutString(std::string_view key,
                                   std::string_view value) {
  Begin(key, GgufType::kString);
  PutText(value, &bytes_);
}

void GgufMetadataWriter::PutStrings(std::string_view key,
                                    const std::vector<std::string>& values) {
  Begin(key, GgufType::kArray);
  Put(static_cast<uint32_t>(GgufType::kString), &bytes_);
  Put<uint64_t>(values.size(), &bytes_);
  for (const std::string& value : values) PutText(value, &bytes_);
}

void GgufMetadataWriter::PutI32s(std::string_view key,
                                 const std::vector<int32_t>& values) {
  Begin(key, GgufType::kArray);
  Put(static_cast<uint32_t>(GgufType::kI32), &bytes_);
  Put<uint64_t>(values.size(), &bytes_);
  for (const int32_t value : values) Put(value, &bytes_);
}

void GgufMetadataWriter::PutF32s(std::string_view key,
                                 const std::vector<float>& values) {
  Begin(key, GgufType::kArray);
  Put(static_cast<uint32_t>(GgufType::kF32), &bytes_);
  Put<uint64_t>(values.size(), &bytes_);
  for (const float value : values) Put(value, &bytes_);
}

absl::Status WriteGguf(const std::string& path,
                       const GgufMetadataWriter& metadata,
                       const std::vector<PlannedTensor>& tensors,
                       TensorFiller& filler, const BytesWritten& written) {
  std::string header = "GGUF";
  Put<uint32_t>(3, &header);
  Put<uint64_t>(tensors.size(), &header);
  Put<uint64_t>(metadata.count(), &header);
  header += metadata.bytes();
  int64_t offset = 0;
  for (const PlannedTensor& tensor : tensors) {
    PutText(tensor.name, &header);
    Put(static_cast<uint32_t>(tensor.shape.size()), &header);
    // The contiguous axis comes first.
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) {
      Put(static_cast<uint64_t>(*dim), &header);
    }
    Put(GgmlType(tensor.dtype), &header);
    Put(static_cast<uint64_t>(offset), &header);
    offset += Aligned(tensor.bytes());
  }

  absl::StatusOr<std::unique_ptr<FileWriter>> file = FileWriter::Create(path);
  if (!file.ok()) return file.status();
  absl::Status status = (*file)->Append(header);
  if (status.ok()) status = (*file)->Pad(kAlignment);
  for (const PlannedTensor& tensor : tensors) {
    if (!status.ok()) return status;
    status = filler.Fill(tensor, [&](std::span<const uint8_t> bytes) {
      written(std::ssize(bytes));
      return (*file)->Append(bytes);
    });
    if (status.ok()) status = (*file)->Pad(kAlignment);
  }
  return status.ok() ? (*file)->Close() : status;
}

}  // namespace shoal
