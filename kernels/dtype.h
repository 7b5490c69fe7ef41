// Element types of tensors, the block-quantised storage types of GGUF among
// them. A block type stores `block_elements` values in `block_bytes` bytes;
// plain types are blocks of one. Layouts: the GGUF block formats as published
// by ggml (one struct a type), FP8 as OCP OFP8 E4M3FN, FP4 as OCP MX E2M1.
#pragma once

#include <cstdint>
#include <string_view>

namespace shoal {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF64,
  kI8,
  kU8,
  kI16,
  kI32,
  kI64,
  kBool,
  kF8E4M3,  // 1-4-3, bias 7, no infinity; a scale tensor goes with it
  kF8E5M2,
  kF8E8M0,  // 2^(byte-127): a scale, never a weight
  kF4E2M1,  // two a byte, low nibble first; a scale tensor goes with it
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
};
inline constexpr int kNumDTypes = static_cast<int>(DType::kMXFP4) + 1;

struct DTypeInfo {
  std::string_view name;   // as Hugging Face or ggml print it
  int32_t block_elements;  // values in one block
  int32_t block_bytes;     // bytes of one block
};

// Properties of `dtype`. Valid for every enumerator.
const DTypeInfo& GetDTypeInfo(DType dtype);

inline std::string_view DTypeName(DType dtype) {
  return GetDTypeInfo(dtype).name;
}

// Bytes of `elements` contiguous values.
// REQUIRES: elements is a multiple of the type's block_elements.
int64_t DTypeBytes(DType dtype, int64_t elements);

}  // namespace shoal
