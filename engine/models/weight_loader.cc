#include "engine/models/weight_loader.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/loading/mapped_file.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/float_bits.h"

namespace shoal {

WeightView WeightLoader::View(const std::string& name) {
  if (!status_.ok()) return {};
  absl::StatusOr<WeightView> view = checkpoint_.Find(name);
  if (!view.ok()) {
    status_ = view.status();
    return {};
  }
  return *view;
}

std::unique_ptr<PackedMatrix> WeightLoader::Matrix(const std::string& name) {
  return Pack(name, precision_);
}

std::unique_ptr<PackedMatrix> WeightLoader::ExactMatrix(
    const std::string& name) {
  return Pack(name, Precision::kExact);
}

std::unique_ptr<PackedMatrix> WeightLoader::Pack(const std::string& name,
                                                 Precision precision) {
  const WeightView weight = View(name);
  if (!status_.ok()) return nullptr;
  absl::StatusOr<std::unique_ptr<PackedMatrix>> packed =
      kernels_.Pack(weight, precision);
  if (!packed.ok()) {
    status_ = absl::Status(packed.status().code(),
                           absl::StrCat(name, ": ", packed.status().message()));
    return nullptr;
  }
  bytes_ += (*packed)->owned_bytes();
  repacks_ = !(*packed)->borrows_source() && !(*packed)->was_packed();
  if ((*packed)->borrows_source()) {
    bytes_ += weight.data.bytes();
  } else {
    checkpoint_.DropPages(weight.data);
  }
  return *std::move(packed);
}

void WeightLoader::Prefetch(const std::string& prefix) const {
  if (!repacks_) return;
  const auto& weights = checkpoint_.weights();
  for (auto it = weights.lower_bound(prefix);
       it != weights.end() && it->first.starts_with(prefix); ++it) {
    PrefetchPages(it->second.data.data, it->second.data.bytes());
  }
}

std::unique_ptr<HeadWeight> WeightLoader::PackHead(const float* values,
                                                   int64_t out, int64_t in) {
  if (!status_.ok()) return nullptr;
  auto head = std::make_unique<HeadWeight>();
  WeightView view;
  if (precision_ == Precision::kExact) {
    head->floats_.assign(values, values + out * in);
    view.data = ConstTensorView(head->floats_.data(), DType::kF32, {out, in});
  } else {
    head->halves_.resize(out * in);
    for (int64_t i = 0; i < out * in; ++i) {
      head->halves_[i] = F32ToBF16(values[i]);
    }
    view.data = ConstTensorView(head->halves_.data(), DType::kBF16, {out, in});
  }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> packed =
      kernels_.Pack(view, precision_ == Precision::kExact
                              ? Precision::kExact
                              : kernels_.rounded_head_precision());
  if (!packed.ok()) {
    status_ = packed.status();
    return nullptr;
  }
  bytes_ += (*packed)->owned_bytes();
  if ((*packed)->borrows_source()) {
    bytes_ += view.data.bytes();
  } else {
    head->floats_ = {};
    head->halves_ = {};
  }
  head->matrix_ = *std::move(packed);
  return head;
}

std::unique_ptr<HeadWeight> WeightLoader::Rows(const std::string& name,
                                               int64_t first, int64_t count) {
  WeightView rows = View(name);
  if (!status_.ok()) return nullptr;
  const int64_t in = rows.in_features();
  if (!rows.scales.empty() && first % rows.scale_rows != 0) {
    std::vector<float> values(count * in);
    for (int64_t r = 0; r < count; ++r) {
      DequantizeWeightRow(rows, first + r, values.data() + r * in);
    }
    return PackHead(values.data(), count, in);
  }
  const auto skip = [](ConstTensorView* view, int64_t begin, int64_t num_rows) {
    view->data = static_cast<const uint8_t*>(view->data) +
                 DTypeBytes(view->dtype, begin * view->dim(1));
    view->shape[0] = num_rows;
  };
  skip(&rows.data, first, count);
  if (!rows.scales.empty()) {
    skip(&rows.scales, first / rows.scale_rows,
         (count + rows.scale_rows - 1) / rows.scale_rows);
  }
  auto head = std::make_unique<HeadWeight>();
  absl::StatusOr<std::unique_ptr<PackedMatrix>> packed =
      kernels_.Pack(rows, precision_);
  if (!packed.ok()) {
    status_ = packed.status();
    return nullptr;
  }
  bytes_ += (*packed)->owned_bytes();
  if ((*packed)->borrows_source()) {
    bytes_ += rows.data.bytes();
  } else {
    checkpoint_.DropPages(rows.data);
  }
  head->matrix_ = *std::move(packed);
  return head;
}

std::unique_ptr<DeviceBuffer> WeightLoader::Allocate(const std::string& what,
                                                     int64_t bytes) {
  if (!status_.ok()) return nullptr;
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
      kernels_.Allocate(bytes);
  if (buffer.ok()) return *std::move(buffer);
  status_ = absl::Status(buffer.status().code(),
                         absl::StrCat(what, ": ", buffer.status().message()));
  return nullptr;
}

std::unique_ptr<DeviceBuffer> WeightLoader::Place(const std::string& name,
                                                  const void* host,
                                                  int64_t bytes) {
  std::unique_ptr<DeviceBuffer> buffer = Allocate(name, bytes);
  if (buffer == nullptr) return nullptr;
  kernels_.Upload(host, bytes, buffer->data());
  bytes_ += bytes;
  return buffer;
}

DeviceArray<int32_t> WeightLoader::Ids(const std::string& name, int64_t limit) {
  DeviceArray<int32_t> array;
  const WeightView view = View(name);
  if (!status_.ok()) return array;
  const int64_t count = view.data.num_elements();
  std::vector<int32_t> ids(count);
  const auto* bytes = static_cast<const uint8_t*>(view.data.data);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t id = view.data.dtype == DType::kI64
                           ? LoadUnaligned<int64_t>(bytes + 8 * i)
                           : LoadUnaligned<int32_t>(bytes + 4 * i);
    if (id < 0 || id >= limit) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat(name, ": expected ids below ", limit, ", got ", id));
      return array;
    }
    ids[i] = static_cast<int32_t>(id);
  }
  array.buffer_ = Place(name, ids.data(), count * 4);
  return array;
}

std::vector<float> WeightLoader::HostFloats(const std::string& name) {
  const WeightView view = View(name);
  if (!status_.ok()) return {};
  std::vector<float> values(view.data.num_elements());
  if (view.data.rank == 2) {  // may have scales
    for (int64_t row = 0; row < view.out_features(); ++row) {
      DequantizeWeightRow(view, row, values.data() + row * view.in_features());
    }
  } else {
    DequantizeRow(view.data.dtype, view.data.data, view.data.num_elements(),
                  values.data());
  }
  return values;
}

DeviceArray<float> WeightLoader::Floats(const std::string& name) {
  DeviceArray<float> array;
  const std::vector<float> values = HostFloats(name);
  if (!status_.ok()) return array;
  array.buffer_ = Place(name, values.data(),
                        static_cast<int64_t>(values.size() * sizeof(float)));
  return array;
}

DeviceArray<float> WeightLoader::OptionalFloats(const std::string& name) {
  return Contains(name) ? Floats(name) : DeviceArray<float>();
}

DeviceWeight WeightLoader::Stored(const std::string& name) {
  DeviceWeight weight;
  weight.view_ = View(name);
  if (!status_.ok() || kernels_.memory_is_host()) return weight;
  const auto place = [&](ConstTensorView* view) {
    std::unique_ptr<DeviceBuffer> buffer =
        Place(name, view->data, view->bytes());
    if (buffer != nullptr) view->data = buffer->data();
    return buffer;
  };
  weight.data_ = place(&weight.view_.data);
  if (!weight.view_.scales.empty() && status_.ok()) {
    weight.scales_ = place(&weight.view_.scales);
  }
  return weight;
}

}  // namespace shoal
