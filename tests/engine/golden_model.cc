#include "tests/engine/golden_model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <utility>

#include "engine/loading/safetensors.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/float_bits.h"
#include "nlohmann/json.hpp"
#include "tests/engine/checked_table.h"

namespace shoal {
namespace {

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s\n", std::string(value.status().message()).c_str());
    std::abort();
  }
  return *std::move(value);
}

std::vector<int64_t> ReadInts(const SafetensorsFile& file,
                              const std::string& name) {
  const ConstTensorView& view = file.tensors().at(name);
  const auto* bytes = static_cast<const uint8_t*>(view.data);
  std::vector<int64_t> values(view.num_elements());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = LoadUnaligned<int64_t>(bytes + 8 * i);
  }
  return values;
}

std::vector<float> ReadFloats(const SafetensorsFile& file,
                              const std::string& name) {
  const ConstTensorView& view = file.tensors().at(name);
  std::vector<float> values(view.num_elements());
  DequantizeRow(view.dtype, view.data, view.num_elements(), values.data());
  return values;
}

}  // namespace

std::string GoldenPath(const std::string& name) {
  const char* elsewhere = std::getenv("SHOAL_GOLDEN_DIR");
  return std::string(elsewhere != nullptr ? elsewhere : SHOAL_GOLDEN_DIR) +
         "/" + name;
}

Golden LoadGolden(const std::string& name) {
  const std::string folder = GoldenPath(name);
  const nlohmann::json json =
      nlohmann::json::parse(std::ifstream(folder + "/golden.json"));
  const auto file =
      ValueOrDie(SafetensorsFile::Open(folder + "/golden.safetensors"));
  Golden golden;
  golden.tolerance = json.at("tolerance").at("fp32_compute_max_abs");
  for (size_t i = 0; i < json.at("prompts").size(); ++i) {
    const std::string prefix = "prompt" + std::to_string(i) + ".";
    GoldenPrompt& prompt = golden.prompts.emplace_back();
    const auto ids = ReadInts(*file, prefix + "input_ids");
    prompt.input_ids.assign(ids.begin(), ids.end());
    prompt.positions = ReadInts(*file, prefix + "positions");
    prompt.logits = ReadFloats(*file, prefix + "logits");
    prompt.greedy =
        json.at("prompts")[i].at("greedy").get<std::vector<int32_t>>();
    if (file->tensors().contains(prefix + "mtp_logits")) {
      prompt.mtp_logits = ReadFloats(*file, prefix + "mtp_logits");
    }
  }
  return golden;
}

std::vector<CpuIsa> RunnableIsas() {
  std::vector<CpuIsa> isas;
  for (const char* name : {"scalar", "avx2", "avx512"}) {
    const absl::StatusOr<CpuIsa> isa = ChooseCpuIsa(name);
    if (isa.ok()) isas.push_back(*isa);
  }
  return isas;
}

TestTable::TestTable(CpuIsa isa, bool checked)
    : name_(checked ? "checked" : std::string(CpuIsaName(isa))),
      make_([isa, checked]() -> std::unique_ptr<KernelTable> {
        std::unique_ptr<KernelTable> cpu = MakeCpuKernelTable(isa, 2);
        if (!checked) return cpu;
        return std::make_unique<CheckedTable>(std::move(cpu));
      }) {}

LoadedModel LoadModel(const std::string& path, const TestTable& table,
                      Precision precision, DType kv_cache_dtype,
                      int32_t max_tokens_per_step, MlaForm mla_form) {
  return LoadModel(path, table.Make(), precision, kv_cache_dtype,
                   max_tokens_per_step, mla_form);
}

LoadedModel LoadModel(const std::string& path,
                      std::unique_ptr<KernelTable> kernels, Precision precision,
                      DType kv_cache_dtype, int32_t max_tokens_per_step,
                      MlaForm mla_form, const ExpertTierOptions& experts) {
  LoadedModel model;
  model.kernels = std::move(kernels);
  model.checkpoint = ValueOrDie(LoadCheckpoint(path));
  DecoderOptions options = {precision, kv_cache_dtype, max_tokens_per_step};
  options.mla_form = mla_form;
  options.experts = experts;
  model.decoder = ValueOrDie(
      MakeDecoder(*model.checkpoint, options, *model.kernels, nullptr));
  return model;
}

std::vector<float> DownloadFloats(KernelTable& kernels, const float* values,
                                  int64_t count) {
  std::vector<float> host(count);
  const absl::Status status = kernels.Download(
      values, count * static_cast<int64_t>(sizeof(float)), host.data());
  if (!status.ok()) std::abort();
  return host;
}

namespace {

// Tokens [first, first + count) of one sequence, all their logits wanted.
StepBatch OneSequence(const std::vector<int32_t>& tokens, int32_t first,
                      int32_t count, int32_t block_size,
                      const std::vector<int32_t>& blocks) {
  StepBatch batch;
  for (int32_t p = first; p < first + count; ++p) {
    batch.token_ids.push_back(tokens[p]);
    batch.positions.push_back(p);
    batch.slot_mapping.push_back(int64_t{blocks[p / block_size]} * block_size +
                                 p % block_size);
    batch.logits_rows.push_back(p - first);
  }
  batch.cu_seqlens_q = {0, count};
  batch.context_lens = {first + count};
  batch.block_tables = blocks;
  batch.max_blocks = static_cast<int32_t>(blocks.size());
  batch.state_slots = {1};
  return batch;
}

}  // namespace

std::vector<float> AllLogits(Decoder& decoder, KernelTable& kernels,
                             const std::vector<int32_t>& tokens, int32_t chunk,
                             int32_t block_size,
                             const std::vector<int32_t>& blocks,
                             std::vector<float>* hidden) {
  const int32_t highest = *std::max_element(blocks.begin(), blocks.end());
  const auto cache = ValueOrDie(PagedCache::Create(
      decoder.cache_layout(), highest + 1, block_size, 2, kernels));
  const auto length = static_cast<int32_t>(tokens.size());
  const int64_t vocab_size = decoder.config().vocab_size;
  std::vector<float> logits(length * vocab_size);
  for (int32_t first = 0; first < length; first += chunk) {
    const int32_t count = std::min(chunk, length - first);
    absl::Status status = decoder.Forward(
        OneSequence(tokens, first, count, block_size, blocks), *cache);
    if (status.ok()) {
      status = decoder.Logits(0, count, logits.data() + first * vocab_size);
    }
    if (!status.ok()) std::abort();
    if (hidden != nullptr) {
      const std::vector<float> rows =
          DownloadFloats(kernels, decoder.hidden_states(),
                         count * decoder.config().hidden_size);
      hidden->insert(hidden->end(), rows.begin(), rows.end());
    }
  }
  return logits;
}

double MaxDifference(const GoldenPrompt& prompt,
                     const std::vector<float>& logits, int64_t vocab_size) {
  double worst = 0;
  for (size_t k = 0; k < prompt.positions.size(); ++k) {
    for (int64_t v = 0; v < vocab_size; ++v) {
      const double difference = logits[prompt.positions[k] * vocab_size + v] -
                                prompt.logits[k * vocab_size + v];
      // Not std::max: a NaN must not pass.
      if (!(std::abs(difference) <= worst)) worst = std::abs(difference);
    }
  }
  return worst;
}

std::vector<float> MtpLogits(MtpModule& module, const ModelConfig& config,
                             KernelTable& kernels,
                             const std::vector<int32_t>& next_tokens,
                             const std::vector<float>& hidden, int32_t chunk) {
  const auto length = static_cast<int32_t>(next_tokens.size());
  constexpr int32_t kBlockSize = 16;
  std::vector<int32_t> blocks((length + kBlockSize - 1) / kBlockSize);
  std::iota(blocks.begin(), blocks.end(), 0);
  const auto cache = ValueOrDie(PagedCache::Create(
      module.cache_layout(), static_cast<int32_t>(blocks.size()), kBlockSize, 2,
      kernels));
  const auto bytes = static_cast<int64_t>(hidden.size() * sizeof(float));
  const auto states = ValueOrDie(kernels.Allocate(bytes));
  kernels.Upload(hidden.data(), bytes, states->data());
  std::vector<float> logits(length * config.vocab_size);
  for (int32_t first = 0; first < length; first += chunk) {
    const int32_t count = std::min(chunk, length - first);
    absl::Status status = module.Forward(
        OneSequence(next_tokens, first, count, kBlockSize, blocks),
        static_cast<const float*>(states->data()) + first * config.hidden_size,
        *cache);
    if (status.ok()) {
      status =
          module.Logits(0, count, logits.data() + first * config.vocab_size);
    }
    if (!status.ok()) std::abort();
  }
  return logits;
}

}  // namespace shoal
