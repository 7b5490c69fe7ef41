#include "server/synth/tensor_filler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "engine/loading/load_error.h"
#include "kernels/check.h"
#include "kernels/quant/float_bits.h"
#include "kernels/quant/quantize.h"

namespace shoal {
namespace {

constexpr int64_t kPoolValues = 1 << 20;
// Values copied at once: enough for memcpy to be fast, and so few that a row of
// weights is put together from several places and no two rows are equal.
constexpr int64_t kRunValues = 512;
constexpr size_t kBufferBytes = 1 << 20;

// Index of the value in `rising` that is nearest to `magnitude`.
template <size_t kSize>
uint8_t Nearest(const std::array<float, kSize>& rising, float magnitude) {
  const auto above = std::lower_bound(rising.begin(), rising.end(), magnitude);
  if (above == rising.begin()) return 0;
  if (above == rising.end()) return kSize - 1;
  const auto i = static_cast<uint8_t>(above - rising.begin());
  return magnitude - rising[i - 1] < rising[i] - magnitude ? i - 1 : i;
}

uint8_t ToF8E4M3(float value) {
  static const std::array<float, 127> kMagnitudes = [] {
    std::array<float, 127> magnitudes;
    for (int i = 0; i < 127; ++i) {
      magnitudes[i] = F8E4M3ToF32(static_cast<uint8_t>(i));
    }
    return magnitudes;
  }();
  const uint8_t code = Nearest(kMagnitudes, std::fabs(value));
  return value < 0 ? code | 0x80 : code;
}

uint8_t ToF4E2M1(float value) {
  static const std::array<float, 8> kMagnitudes = [] {
    std::array<float, 8> magnitudes;
    std::copy_n(kF4E2M1Values, 8, magnitudes.begin());
    return magnitudes;
  }();
  const uint8_t code = Nearest(kMagnitudes, std::fabs(value));
  return value < 0 ? code | 8 : code;
}

}  // namespace

bool CanEncode(DType dtype) {
  return CanQuantize(dtype) || dtype == DType::kF8E4M3 ||
         dtype == DType::kF4E2M1;
}

void EncodeValues(DType dtype, std::span<const float> values, uint8_t* dst) {
  if (dtype == DType::kF8E4M3) {
    for (const float value : values) *dst++ = ToF8E4M3(value);
  } else if (dtype == DType::kF4E2M1) {
    for (size_t i = 0; i + 1 < values.size(); i += 2) {
      const int high = ToF4E2M1(values[i + 1]) << 4;
      *dst++ = static_cast<uint8_t>(ToF4E2M1(values[i]) | high);
    }
  } else {
    QuantizeRow(dtype, values.data(), std::ssize(values), dst);
  }
}

const std::vector<uint8_t>& TensorFiller::PoolOf(DType dtype,
                                                 const NormalFill& fill) {
  std::vector<uint8_t>& pool = pools_[{dtype, fill.mean, fill.stddev}];
  if (!pool.empty()) return pool;
  SynthRandom random(SeedOf(seed_, Concat({"pool ", DTypeName(dtype)})));
  std::vector<float> values(kPoolValues);
  for (float& value : values) value = fill.mean + fill.stddev * random.Normal();
  pool.resize(static_cast<size_t>(DTypeBytes(dtype, kPoolValues)));
  EncodeValues(dtype, values, pool.data());
  return pool;
}

absl::Status TensorFiller::FillNormal(const PlannedTensor& tensor,
                                      const NormalFill& fill,
                                      const ByteSink& sink) {
  SHOAL_CHECK(CanEncode(tensor.dtype));
  const int64_t block = GetDTypeInfo(tensor.dtype).block_elements;
  SHOAL_CHECK(!tensor.shape.empty() && tensor.shape.back() % block == 0);
  const std::vector<uint8_t>& pool = PoolOf(tensor.dtype, fill);
  SynthRandom random(SeedOf(seed_, tensor.name));
  std::vector<uint8_t> buffer(kBufferBytes);
  size_t used = 0;
  for (int64_t left = tensor.num_elements(); left > 0;) {
    const int64_t count = std::min(left, kRunValues);
    const int64_t from = random.Below((kPoolValues - count) / block + 1);
    const auto bytes = static_cast<size_t>(DTypeBytes(tensor.dtype, count));
    if (used + bytes > buffer.size()) {
      absl::Status status = sink({buffer.data(), used});
      if (!status.ok()) return status;
      used = 0;
    }
    std::memcpy(buffer.data() + used,
                pool.data() + DTypeBytes(tensor.dtype, from * block), bytes);
    used += bytes;
    left -= count;
  }
  return used == 0 ? absl::OkStatus() : sink({buffer.data(), used});
}

absl::Status TensorFiller::Fill(const PlannedTensor& tensor,
                                const ByteSink& sink) {
  if (const auto* normal = std::get_if<NormalFill>(&tensor.fill)) {
    return FillNormal(tensor, *normal, sink);
  }
  SynthRandom random(SeedOf(seed_, tensor.name));
  std::vector<uint8_t> bytes;
  std::get<ComputedFill>(tensor.fill)(random, &bytes);
  SHOAL_CHECK(std::ssize(bytes) == tensor.bytes());
  return sink(bytes);
}

}  // namespace shoal
