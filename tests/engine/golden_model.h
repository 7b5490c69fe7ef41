// Golden models of tests/golden: their prompts with logits and greedy tokens,
// and a decoder over them for a chosen instruction set. Test support.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/cache/paged_cache.h"
#include "engine/loading/checkpoint.h"
#include "engine/models/decoder.h"
#include "engine/models/mtp_module.h"
#include "kernels/cpu/cpu_table.h"

namespace shoal {

struct GoldenPrompt {
  std::vector<int32_t> input_ids;
  std::vector<int64_t> positions;  // whose logits are known
  std::vector<float> logits;       // [positions.size(), vocab_size]
  std::vector<int32_t> greedy;
  std::vector<float> mtp_logits;  // [.., vocab_size] of the last rows, or empty
};

struct Golden {
  std::vector<GoldenPrompt> prompts;
  double tolerance = 0;  // of f32 logits, largest absolute difference
};

// Path of a file or folder under tests/golden, or under the folder that the
// environment's SHOAL_GOLDEN_DIR names.
std::string GoldenPath(const std::string& name);
// Of a folder with golden.json and golden.safetensors. Aborts on bad data.
Golden LoadGolden(const std::string& name);

// A kernel table that models are tested on.
class TestTable {
 public:
  // The CPU's, on two threads. `checked`: in memory that is not the host's, see
  // checked_table.h.
  TestTable(CpuIsa isa,
            bool checked = false);  // NOLINT: a plain one is its ISA
  TestTable(std::string name,
            std::function<std::unique_ptr<KernelTable>()> make)
      : name_(std::move(name)), make_(std::move(make)) {}

  const std::string& name() const { return name_; }
  std::unique_ptr<KernelTable> Make() const { return make_(); }

 private:
  std::string name_;
  std::function<std::unique_ptr<KernelTable>()> make_;
};

// The instruction sets that this machine runs.
std::vector<CpuIsa> RunnableIsas();

// The tables that golden models are tested on: given by the binary that the
// tests are linked into.
std::vector<TestTable> AllTables();
// Those on which the engine is tested in all its ways.
std::vector<TestTable> EngineTables();
// One of each kind of memory, for what does not depend on instruction sets.
std::vector<TestTable> TablesOfEachMemory();

// A loaded model with what it borrows.
struct LoadedModel {
  std::unique_ptr<KernelTable> kernels;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Decoder> decoder;
};
// Aborts, with the message, if it does not load.
LoadedModel LoadModel(const std::string& path, const TestTable& table,
                      Precision precision, DType kv_cache_dtype,
                      int32_t max_tokens_per_step,
                      MlaForm mla_form = MlaForm::kAuto);

// The same on a table that the caller made.
LoadedModel LoadModel(const std::string& path,
                      std::unique_ptr<KernelTable> kernels, Precision precision,
                      DType kv_cache_dtype, int32_t max_tokens_per_step,
                      MlaForm mla_form = MlaForm::kAuto,
                      const ExpertTierOptions& experts = {});

// Values in a table's memory, on the host.
std::vector<float> DownloadFloats(KernelTable& kernels, const float* values,
                                  int64_t count);

// Logits of every position of `tokens` [n, vocab_size], computed in chunks of
// `chunk` tokens over cache blocks in the order of `blocks` (ids, enough of
// them). `hidden`, if given, becomes the final hidden states [n, hidden_size].
std::vector<float> AllLogits(Decoder& decoder, KernelTable& kernels,
                             const std::vector<int32_t>& tokens, int32_t chunk,
                             int32_t block_size,
                             const std::vector<int32_t>& blocks,
                             std::vector<float>* hidden = nullptr);

// Largest difference of `logits` [n, vocab_size] from the prompt's known ones;
// NaN counts as different.
double MaxDifference(const GoldenPrompt& prompt,
                     const std::vector<float>& logits, int64_t vocab_size);

// The multi-token prediction module's logits of every row [n, vocab_size]: row
// i from hidden state i and next_tokens[i].
std::vector<float> MtpLogits(MtpModule& module, const ModelConfig& config,
                             KernelTable& kernels,
                             const std::vector<int32_t>& next_tokens,
                             const std::vector<float>& hidden, int32_t chunk);

}  // namespace shoal
