#include "tests/fuzz/model_probe.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>
#include <vector>

#include "engine/cache/paged_cache.h"
#include "engine/loading/checkpoint.h"
#include "engine/models/decoder.h"
#include "engine/sampling/sampler.h"
#include "server/text/model_text.h"

namespace shoal {
namespace {

constexpr int32_t kTokens = 40;  // past the window and top-k of small models
constexpr int32_t kChunk = 24;   // most tokens of a step

StepBatch MakeBatch(int32_t first, int32_t count, int64_t vocab_size,
                    int32_t num_blocks) {
  StepBatch batch;
  for (int32_t p = first; p < first + count; ++p) {
    batch.token_ids.push_back(static_cast<int32_t>(31 * p % vocab_size));
    batch.positions.push_back(p);
    batch.slot_mapping.push_back(p);
  }
  batch.cu_seqlens_q = {0, count};
  batch.context_lens = {first + count};
  batch.max_blocks = num_blocks;
  batch.block_tables.resize(num_blocks);
  std::iota(batch.block_tables.begin(), batch.block_tables.end(), 0);
  batch.state_slots = {0};
  batch.logits_rows = {count - 1};
  return batch;
}

absl::Status Run(Decoder& decoder, KernelTable& kernels) {
  const int64_t vocab_size = decoder.config().vocab_size;
  const int32_t block_size =
      std::max(16, decoder.cache_layout().BlockMultiple());
  const int32_t num_blocks = (kTokens + block_size - 1) / block_size;
  absl::StatusOr<std::unique_ptr<PagedCache>> cache = PagedCache::Create(
      decoder.cache_layout(), num_blocks, block_size, 1, kernels);
  if (!cache.ok()) return cache.status();
  std::vector<float> logits(vocab_size);
  for (int32_t first = 0; first < kTokens; first += kChunk) {
    const int32_t count = std::min(kChunk, kTokens - first);
    absl::Status status = decoder.Forward(
        MakeBatch(first, count, vocab_size, num_blocks), **cache);
    if (status.ok()) status = decoder.Logits(0, 1, logits.data());
    if (!status.ok()) return status;
  }
  ComputeLogprobs(logits, 0, 2);
  // Refuses logits that are no numbers, which damaged weights may give.
  (void)Sampler(SamplingParams(), /*seed=*/1, nullptr).Sample(logits, {});
  return absl::OkStatus();
}

absl::Status ProbeText(const Checkpoint& checkpoint) {
  const bool has_text =
      checkpoint.gguf() != nullptr ||
      std::filesystem::exists(checkpoint.path() + "/tokenizer.json");
  if (!has_text) return absl::OkStatus();
  auto text = ModelText::Load(checkpoint);
  if (!text.ok()) return text.status();
  // Requests may fail, in words of their own; they must not end the process.
  const auto ids = (*text)->Encode("Fish \xF0\x9F\x90\x9F <think> 12\n", true);
  if (ids.ok()) (void)(*text)->Decode(*ids, false);
  if ((*text)->has_chat_template()) {
    ChatTemplateInput chat;
    chat.messages_json = R"([{"role":"user","content":"a <think> b"}])";
    (void)(*text)->EncodeChat(chat);
  }
  return absl::OkStatus();
}

}  // namespace

ProbeResult ProbeModel(const std::string& path, bool with_text,
                       KernelTable& kernels) {
  ProbeResult result;
  auto checkpoint = LoadCheckpoint(path);
  result.status = checkpoint.status();
  if (!result.status.ok()) return result;
  if (with_text) result.status = ProbeText(**checkpoint);
  if (!result.status.ok()) return result;
  result.loaded = true;
  DecoderOptions decoder_options;
  decoder_options.kv_cache_dtype = DType::kBF16;
  decoder_options.max_tokens_per_step = kChunk;
  auto decoder = MakeDecoder(**checkpoint, decoder_options, kernels, nullptr);
  result.status = decoder.status();
  if (result.status.ok()) result.status = Run(**decoder, kernels);
  result.ran = result.status.ok();
  return result;
}

bool IsWellFormed(const absl::Status& status, const std::string& folder) {
  const std::string message(status.message());
  const auto has = [&](std::string_view part) {
    return message.find(part) != message.npos;
  };
  return has(folder) && !has("\n") &&
         ((has(": expected ") && has(", got ")) || has(": cannot open: "));
}

}  // namespace shoal
