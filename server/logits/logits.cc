#include "server/logits/logits.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "engine/cache/paged_cache.h"
#include "engine/loading/load_error.h"
#include "engine/sampling/sampler.h"
#include "server/synth/file_writer.h"
#include "server/synth/safetensors_writer.h"

namespace shoal {
namespace {

constexpr int32_t kMinBlockSize = 16;        // tokens
constexpr int64_t kMaxCacheBytes = 1 << 30;  // unless one prompt needs more
constexpr size_t kMaxSequences = 64;         // that run at once
constexpr int32_t kRowsAtOnce = 16;          // of logits

template <typename T>
std::span<const uint8_t> AsBytes(const T* values, int64_t count) {
  return {reinterpret_cast<const uint8_t*>(values), count * sizeof(T)};
}

// A prompt on its way through the decoder.
struct Sequence {
  size_t prompt = 0;            // index
  std::vector<int32_t> tokens;  // of the prompt, then generated ones
  int32_t num_prompt_tokens = 0;
  int32_t num_computed = 0;
  int32_t first_block = 0;
  int32_t num_blocks = 0;
};

// Part of a step: tokens [first, first + count) of a sequence.
struct Piece {
  Sequence* sequence;
  int32_t first;
  int32_t count;
};

class Runner {
 public:
  Runner(const std::vector<std::vector<int32_t>>& prompts,
         const LogitsOptions& options, Decoder& decoder, KernelTable& kernels)
      : prompts_(prompts),
        options_(options),
        decoder_(decoder),
        kernels_(kernels),
        vocab_size_(decoder.config().vocab_size),
        block_size_(
            std::max(kMinBlockSize, decoder.cache_layout().BlockMultiple())),
        rows_(kRowsAtOnce * vocab_size_) {}

  absl::Status Run(const std::string& path) {
    absl::Status status = CheckLengths();
    if (!status.ok()) return status;
    status = Begin(path);
    size_t next = 0;
    while (status.ok() && next < prompts_.size()) {
      std::vector<Sequence> group = TakeGroup(&next);
      status = RunGroup(group);
    }
    return status.ok() ? file_->Close() : status;
  }

 private:
  absl::Status CheckLengths() const {
    const int64_t context = decoder_.config().max_position_embeddings;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      const int64_t wanted = std::ssize(prompts_[i]) + options_.greedy;
      if (wanted <= context) continue;
      return absl::InvalidArgumentError(
          Concat({"prompt", i, ": expected at most ", context,
                  " tokens with those to generate, got ", wanted}));
    }
    return absl::OkStatus();
  }

  // Creates the file and decides where each tensor lies in it.
  absl::Status Begin(const std::string& path) {
    std::vector<PlannedTensor> tensors;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      tensors.push_back({Concat({"prompt", i, ".logits"}),
                         DType::kF32,
                         {std::ssize(prompts_[i]), vocab_size_},
                         NormalFill{}});
      if (options_.greedy > 0) {
        tensors.push_back({Concat({"prompt", i, ".greedy"}),
                           DType::kI64,
                           {options_.greedy},
                           NormalFill{}});
      }
    }
    const std::string header = SafetensorsHeader(tensors);
    int64_t offset = std::ssize(header);
    for (const PlannedTensor& tensor : tensors) {
      const bool is_logits = tensor.dtype == DType::kF32;
      (is_logits ? logits_at_ : greedy_at_).push_back(offset);
      offset += tensor.bytes();
    }
    absl::Status status = CheckDiskRoom(path, offset);
    if (!status.ok()) return status;
    absl::StatusOr<std::unique_ptr<FileWriter>> file = FileWriter::Create(path);
    if (!file.ok()) return file.status();
    file_ = *std::move(file);
    return file_->Append(header);
  }

  // As many prompts as run at once, from *next on.
  std::vector<Sequence> TakeGroup(size_t* next) const {
    std::vector<Sequence> group;
    const CacheLayout& layout = decoder_.cache_layout();
    int32_t blocks = 0;
    for (; *next < prompts_.size() && group.size() < MaxSequences(); ++*next) {
      Sequence sequence;
      sequence.prompt = *next;
      sequence.tokens = prompts_[*next];
      sequence.num_prompt_tokens = static_cast<int32_t>(sequence.tokens.size());
      const int32_t tokens = sequence.num_prompt_tokens + options_.greedy;
      sequence.first_block = blocks;
      sequence.num_blocks = (tokens + block_size_ - 1) / block_size_;
      const int64_t all = blocks + sequence.num_blocks;
      const bool fits = layout.BytesOf(all * block_size_) <= kMaxCacheBytes;
      if (!fits && !group.empty()) break;
      blocks += sequence.num_blocks;
      group.push_back(std::move(sequence));
    }
    return group;
  }

  // One token of each must fit into a step.
  size_t MaxSequences() const {
    return std::min<size_t>(kMaxSequences, options_.max_tokens_per_step);
  }

  absl::Status RunGroup(std::vector<Sequence>& group) {
    absl::StatusOr<std::unique_ptr<PagedCache>> cache = PagedCache::Create(
        decoder_.cache_layout(),
        group.back().first_block + group.back().num_blocks, block_size_,
        static_cast<int32_t>(group.size()), kernels_);
    if (!cache.ok()) return cache.status();
    for (;;) {
      const std::vector<Piece> pieces = PlanStep(group);
      if (pieces.empty()) break;
      absl::Status status = decoder_.Forward(MakeBatch(group, pieces), **cache);
      if (status.ok()) status = TakeLogits(pieces);
      if (!status.ok()) return status;
    }
    if (options_.greedy == 0) return absl::OkStatus();
    for (const Sequence& sequence : group) {
      const std::vector<int64_t> generated(
          sequence.tokens.begin() + sequence.num_prompt_tokens,
          sequence.tokens.end());
      absl::Status status =
          file_->WriteAt(greedy_at_[sequence.prompt],
                         AsBytes(generated.data(), options_.greedy));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Tokens that are there and not computed, oldest sequences first. The last
  // one generated is not computed: nothing follows it.
  std::vector<Piece> PlanStep(std::vector<Sequence>& group) const {
    std::vector<Piece> pieces;
    int32_t room = options_.max_tokens_per_step;
    for (Sequence& sequence : group) {
      const int32_t end =
          std::min(static_cast<int32_t>(sequence.tokens.size()),
                   sequence.num_prompt_tokens + options_.greedy - 1);
      const int32_t last = std::max(end, sequence.num_prompt_tokens);
      const int32_t count =
          std::min({last - sequence.num_computed, options_.chunk, room});
      if (count <= 0) continue;
      pieces.push_back({&sequence, sequence.num_computed, count});
      room -= count;
    }
    return pieces;
  }

  StepBatch MakeBatch(const std::vector<Sequence>& group,
                      const std::vector<Piece>& pieces) const {
    StepBatch batch;
    batch.cu_seqlens_q = {0};
    for (const Piece& piece : pieces) {
      batch.max_blocks = std::max(batch.max_blocks, piece.sequence->num_blocks);
    }
    for (const Piece& piece : pieces) {
      const Sequence& sequence = *piece.sequence;
      const int64_t slot = int64_t{sequence.first_block} * block_size_;
      for (int32_t p = piece.first; p < piece.first + piece.count; ++p) {
        batch.logits_rows.push_back(batch.num_tokens());
        batch.token_ids.push_back(sequence.tokens[p]);
        batch.positions.push_back(p);
        batch.slot_mapping.push_back(slot + p);
      }
      batch.cu_seqlens_q.push_back(batch.num_tokens());
      batch.context_lens.push_back(piece.first + piece.count);
      batch.state_slots.push_back(
          static_cast<int32_t>(&sequence - group.data()));
      for (int32_t b = 0; b < batch.max_blocks; ++b) {
        batch.block_tables.push_back(
            b < sequence.num_blocks ? sequence.first_block + b : -1);
      }
    }
    return batch;
  }

  // Writes a step's logits and appends to each sequence the token that its
  // last one is followed by, if it is to have more.
  absl::Status TakeLogits(const std::vector<Piece>& pieces) {
    int32_t row = 0;
    for (const Piece& piece : pieces) {
      Sequence& sequence = *piece.sequence;
      for (int32_t done = 0; done < piece.count;) {
        const int32_t count = std::min(kRowsAtOnce, piece.count - done);
        absl::Status status = decoder_.Logits(row, count, rows_.data());
        if (status.ok()) {
          status = WriteRows(sequence, piece.first + done, count);
        }
        if (!status.ok()) return status;
        row += count;
        done += count;
        sequence.num_computed += count;
        const auto known = static_cast<int32_t>(sequence.tokens.size());
        if (sequence.num_computed == known &&
            known < sequence.num_prompt_tokens + options_.greedy) {
          const float* last = rows_.data() + (count - 1) * vocab_size_;
          sequence.tokens.push_back(
              ArgMax({last, static_cast<size_t>(vocab_size_)}));
        }
      }
    }
    return absl::OkStatus();
  }

  // Of positions [first, first + count), as far as they are the prompt's.
  absl::Status WriteRows(const Sequence& sequence, int32_t first,
                         int32_t count) {
    if (first >= sequence.num_prompt_tokens) return absl::OkStatus();
    return file_->WriteAt(
        logits_at_[sequence.prompt] +
            first * vocab_size_ * static_cast<int64_t>(sizeof(float)),
        AsBytes(rows_.data(), count * vocab_size_));
  }

  const std::vector<std::vector<int32_t>>& prompts_;
  const LogitsOptions options_;
  Decoder& decoder_;
  KernelTable& kernels_;
  const int64_t vocab_size_;
  const int32_t block_size_;
  std::vector<float> rows_;
  std::vector<int64_t> logits_at_;  // by prompt: bytes from the file's start
  std::vector<int64_t> greedy_at_;
  std::unique_ptr<FileWriter> file_;
};

}  // namespace

absl::Status WriteLogits(const std::vector<std::vector<int32_t>>& prompts,
                         const LogitsOptions& options, Decoder& decoder,
                         KernelTable& kernels, const std::string& path) {
  return Runner(prompts, options, decoder, kernels).Run(path);
}

}  // namespace shoal
