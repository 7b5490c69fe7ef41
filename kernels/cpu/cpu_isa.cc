#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_table.h"

namespace shoal {
namespace {

// Names of the instructions of `isa` that this machine lacks, empty if none.
std::string MissingInstructions(CpuIsa isa) {
  std::string missing;
#if defined(__x86_64__)
  const auto need = [&missing](bool present, const char* name) {
    if (!present) absl::StrAppend(&missing, missing.empty() ? "" : ", ", name);
  };
  if (isa == CpuIsa::kAvx2) {
    need(__builtin_cpu_supports("avx2"), "AVX2");
    need(__builtin_cpu_supports("fma"), "FMA");
    need(__builtin_cpu_supports("f16c"), "F16C");
  } else if (isa == CpuIsa::kAvx512) {
    need(__builtin_cpu_supports("avx512f"), "AVX512F");
    need(__builtin_cpu_supports("avx512bw"), "AVX512BW");
    need(__builtin_cpu_supports("avx512vl"), "AVX512VL");
    need(__builtin_cpu_supports("avx512dq"), "AVX512DQ");
    need(__builtin_cpu_supports("avx512vnni"), "AVX512_VNNI");
    need(__builtin_cpu_supports("avx512bf16"), "AVX512_BF16");
  }
#else
  if (isa != CpuIsa::kScalar) missing = "an x86-64 processor";
#endif
  return missing;
}

}  // namespace

std::string_view CpuIsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar:
      return "scalar";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
  }
  return "";
}

absl::StatusOr<CpuIsa> ChooseCpuIsa(std::string_view name) {
  if (name == "auto") {
    for (CpuIsa isa : {CpuIsa::kAvx512, CpuIsa::kAvx2}) {
      if (MissingInstructions(isa).empty()) return isa;
    }
    return CpuIsa::kScalar;
  }
  for (CpuIsa isa : {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (name != CpuIsaName(isa)) continue;
    const std::string missing = MissingInstructions(isa);
    if (missing.empty()) return isa;
    return absl::FailedPreconditionError(
        absl::StrCat("instruction set ", std::string(name),
                     ": this machine lacks ", missing));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("instruction set: expected auto, scalar, avx2 or avx512, "
                   "got \"",
                   std::string(name), "\""));
}

}  // namespace shoal
