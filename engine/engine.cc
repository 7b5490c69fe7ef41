#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/active_request.h"
#include "engine/mailbox.h"
#include "engine/memory_budget.h"
#include "engine/step_loop.h"
#include "engine/stream_core.h"

namespace shoal {
namespace {

// How long the step thread waits for a paused stream's reader before it looks
// again; a reader that makes room wakes it at once.
constexpr absl::Duration kPausedWait = absl::Milliseconds(100);

// Prompt tokens whose logprobs a stream has room for.
int32_t MaxChunk(const SamplingParams& sampling) {
  const int64_t entries = int64_t{sampling.prompt_logprobs} + 1;
  return static_cast<int32_t>(
      kMaxWaitingLogprobs /
      std::clamp<int64_t>(entries, 1, kMaxWaitingLogprobs));
}

class StreamImpl : public EngineStream {
 public:
  StreamImpl(uint64_t id, std::shared_ptr<StreamCore> core,
             std::shared_ptr<Mailbox> mailbox)
      : id_(id), core_(std::move(core)), mailbox_(std::move(mailbox)) {}
  ~StreamImpl() override {
    core_->SetNotify(nullptr);
    if (!core_->done()) Cancel();
  }

  std::optional<TokenEvent> TryNext() override { return core_->TryNext(); }
  bool done() const override { return core_->done(); }
  void SetNotify(std::function<void()> notify) override {
    core_->SetNotify(std::move(notify));
  }
  void Cancel() override {
    mailbox_->Post([this](Mail& mail) { mail.cancelled.push_back(id_); });
  }
  void Finish(int32_t index) override {
    mailbox_->Post(
        [this, index](Mail& mail) { mail.finished.emplace_back(id_, index); });
  }

 private:
  const uint64_t id_;
  const std::shared_ptr<StreamCore> core_;
  const std::shared_ptr<Mailbox> mailbox_;
};

class EngineImpl : public Engine {
 public:
  EngineImpl(std::unique_ptr<Decoder> decoder,
             std::unique_ptr<PagedCache> cache, const EngineOptions& options,
             int32_t max_model_len, EngineObserver* observer)
      : decoder_(std::move(decoder)),
        cache_(std::move(cache)),
        options_(options),
        max_model_len_(max_model_len),
        observer_(observer),
        mailbox_(std::make_shared<Mailbox>()),
        loop_(*decoder_, *cache_, options, max_model_len, observer),
        seeds_(std::random_device()()) {
    UpdateSnapshot();
    thread_ = std::thread([this] { StepForever(); });
  }

  ~EngineImpl() override {
    mailbox_->Post([](Mail& mail) { mail.cancel_all = mail.stop = true; });
    thread_.join();
  }

  absl::StatusOr<std::unique_ptr<EngineStream>> Submit(
      EngineRequest request) override;

  void StartDrain() override {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }
  bool AwaitIdle(absl::Time deadline) override {
    absl::MutexLock lock(&mutex_);
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return num_active_ == 0;
    };
    return mutex_.AwaitWithDeadline(absl::Condition(&idle), deadline);
  }
  void CancelAll() override {
    mailbox_->Post([](Mail& mail) { mail.cancel_all = true; });
  }
  EngineSnapshot Snapshot() const override {
    absl::MutexLock lock(&mutex_);
    EngineSnapshot snapshot = snapshot_;
    // What the step thread has not seen yet waits too.
    snapshot.num_waiting += num_unseen_;
    return snapshot;
  }
  const ModelConfig& config() const override { return decoder_->config(); }

 private:
  absl::Status Validate(const EngineRequest& request) const;
  std::unique_ptr<ActiveRequest> MakeActive(EngineRequest request, uint64_t id,
                                            uint64_t seed);
  void StepForever();
  void UpdateSnapshot();

  const std::unique_ptr<Decoder> decoder_;
  const std::unique_ptr<PagedCache> cache_;
  const EngineOptions options_;
  const int32_t max_model_len_;
  EngineObserver* const observer_;
  const std::shared_ptr<Mailbox> mailbox_;
  StepLoop loop_;  // step thread
  std::thread thread_;

  mutable absl::Mutex mutex_;
  std::mt19937_64 seeds_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t num_active_ ABSL_GUARDED_BY(mutex_) = 0;  // accepted, not ended
  int32_t num_unseen_ ABSL_GUARDED_BY(mutex_) = 0;  // in the mailbox
  int64_t num_unseen_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  EngineSnapshot snapshot_ ABSL_GUARDED_BY(mutex_);
};

absl::Status EngineImpl::Validate(const EngineRequest& request) const {
  const int64_t vocab_size = config().vocab_size;
  const auto prompt_len = static_cast<int64_t>(request.prompt_token_ids.size());
  if (prompt_len == 0) {
    return absl::InvalidArgumentError("prompt: expected at least one token");
  }
  if (prompt_len >= max_model_len_) {
    return absl::InvalidArgumentError(
        absl::StrCat("context_length_exceeded: the prompt has ", prompt_len,
                     " tokens; the context holds ", max_model_len_,
                     " with at least one of the completion"));
  }
  for (int32_t token : request.prompt_token_ids) {
    if (token < 0 || token >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt: expected token ids in [0, ", vocab_size, "), got ", token));
    }
  }
  if (request.n < 1 || request.n > options_.max_num_seqs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "n: expected 1 to ", options_.max_num_seqs, ", got ", request.n));
  }
  if (!request.constraints.empty() &&
      static_cast<int32_t>(request.constraints.size()) != request.n) {
    return absl::InvalidArgumentError("constraints: expected none or n");
  }
  return ValidateSamplingParams(request.sampling, vocab_size);
}

std::unique_ptr<ActiveRequest> EngineImpl::MakeActive(EngineRequest request,
                                                      uint64_t id,
                                                      uint64_t seed) {
  auto active = std::make_unique<ActiveRequest>();
  active->id = id;
  active->submitted = absl::Now();
  const auto mailbox = mailbox_;
  active->stream = std::make_shared<StreamCore>(
      options_.stream_capacity, request.n, [mailbox] { mailbox->Wake(); });
  // Prompt logprobs need the logits of every prompt position.
  const bool use_prefix_cache = options_.enable_prefix_caching &&
                                !request.bypass_prefix_cache &&
                                request.sampling.prompt_logprobs < 0;
  for (int32_t i = 0; i < request.n; ++i) {
    auto run = std::make_unique<Run>();
    run->token_ids = request.prompt_token_ids;
    run->num_prompt_tokens = run->num_tokens();
    run->priority = request.priority;
    run->deadline = request.deadline;
    run->cache_salt = request.cache_salt;
    run->use_prefix_cache = use_prefix_cache;
    if (i == 0) run->max_chunk_tokens = MaxChunk(request.sampling);
    run->index = i;
    run->sampler = std::make_unique<Sampler>(
        request.sampling, seed + i,
        request.constraints.empty() ? nullptr : request.constraints[i]);
    run->sampler->AddPrompt(run->token_ids);
    active->runs.push_back(std::move(run));
  }
  active->spec = std::move(request);
  return active;
}

absl::StatusOr<std::unique_ptr<EngineStream>> EngineImpl::Submit(
    EngineRequest request) {
  const auto rejected = [this](absl::Status status) {
    if (observer_ != nullptr) observer_->OnRejected();
    return status;
  };
  absl::Status valid = Validate(request);
  if (!valid.ok()) return rejected(std::move(valid));
  if (request.deadline <= absl::Now()) {
    return rejected(
        absl::DeadlineExceededError("the request's deadline has passed"));
  }
  const auto prompt_len = static_cast<int64_t>(request.prompt_token_ids.size());
  uint64_t id, seed;
  {
    absl::MutexLock lock(&mutex_);
    absl::Status refusal;
    const int32_t waiting = snapshot_.num_waiting + num_unseen_;
    const int64_t waiting_tokens =
        snapshot_.num_waiting_tokens + num_unseen_tokens_;
    if (!snapshot_.health.ok()) {
      refusal = absl::InternalError("the engine has failed and will restart");
    } else if (draining_) {
      refusal = absl::UnavailableError("the server is draining");
    } else if (waiting >= options_.max_num_queued_requests) {
      refusal = absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", waiting, " requests wait"));
    } else if (options_.max_num_queued_tokens > 0 && waiting > 0 &&
               waiting_tokens + prompt_len > options_.max_num_queued_tokens) {
      refusal = absl::ResourceExhaustedError(absl::StrCat(
          "the queue is full: ", waiting_tokens, " prompt tokens wait"));
    }
    if (!refusal.ok()) return rejected(std::move(refusal));
    id = next_id_++;
    seed = request.sampling.seed.value_or(seeds_());
    ++num_active_;
    ++num_unseen_;
    num_unseen_tokens_ += prompt_len;
  }
  auto active = MakeActive(std::move(request), id, seed);
  auto stream = std::make_unique<StreamImpl>(id, active->stream, mailbox_);
  if (observer_ != nullptr) observer_->OnAccepted();
  mailbox_->Post(
      [&](Mail& mail) { mail.arrivals.push_back(std::move(active)); });
  return stream;
}

void EngineImpl::UpdateSnapshot() {
  EngineSnapshot now;
  now.num_running = loop_.scheduler().num_running();
  now.num_waiting = loop_.scheduler().num_waiting();
  now.num_waiting_tokens = loop_.scheduler().num_waiting_tokens();
  now.free_blocks = loop_.pool().num_free();
  now.total_blocks = loop_.pool().num_blocks();
  now.block_size = loop_.pool().block_size();
  now.max_model_len = max_model_len_;
  now.max_num_seqs = options_.max_num_seqs;
  now.max_num_batched_tokens = options_.max_num_batched_tokens;
  now.cache_bytes = cache_->bytes();
  now.weight_bytes = decoder_->weight_bytes();
  now.workspace_bytes = decoder_->workspace_bytes();
  absl::MutexLock lock(&mutex_);
  now.health = snapshot_.health;
  snapshot_ = now;
}

void EngineImpl::StepForever() {
  bool computed = false;
  absl::Status fault;
  while (true) {
    // Busy: only look. Idle: wait for mail. Between: all readers are slow.
    absl::Time wait = absl::InfinitePast();
    if (loop_.idle() || !fault.ok()) {
      wait = absl::InfiniteFuture();
    } else if (!computed) {
      wait = std::min(absl::Now() + kPausedWait, loop_.NextDeadline());
    }
    Mail mail = mailbox_->Take(wait);
    const bool stop = mail.stop;
    const auto arrivals = static_cast<int32_t>(mail.arrivals.size());
    int64_t arrived_tokens = 0;
    for (const auto& request : mail.arrivals) {
      arrived_tokens += request->runs.front()->num_prompt_tokens;
    }
    loop_.Handle(std::move(mail));
    // Nothing runs any more; what slipped in ends as the rest did.
    if (!fault.ok()) loop_.Fail(fault);
    if (stop) return;
    computed = false;
    if (fault.ok() && !loop_.idle()) {
      const absl::StatusOr<bool> step = loop_.Step();
      if (step.ok()) {
        computed = *step;
      } else {
        fault = step.status();
        absl::MutexLock lock(&mutex_);
        snapshot_.health = fault;
      }
    }
    UpdateSnapshot();
    absl::MutexLock lock(&mutex_);
    num_unseen_ -= arrivals;
    num_unseen_tokens_ -= arrived_tokens;
    num_active_ = num_unseen_ + loop_.num_requests();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(
    std::unique_ptr<Decoder> decoder, const EngineOptions& asked,
    KernelTable& kernels, EngineObserver* observer) {
  EngineOptions options = asked;
  if (options.max_num_seqs < 1 || options.max_num_batched_tokens < 1 ||
      options.block_size < 1 || options.stream_capacity < 1) {
    return absl::InvalidArgumentError(
        "max-num-seqs, max-num-batched-tokens, block-size and the stream's "
        "capacity: expected at least 1");
  }
  const CacheLayout& layout = decoder->cache_layout();
  const int32_t multiple = layout.BlockMultiple();
  options.block_size =
      (options.block_size + multiple - 1) / multiple * multiple;
  // Blocks alone do not bring back what a sequence has of its own.
  if (layout.BytesPerSequence() > 0) options.enable_prefix_caching = false;
  const absl::StatusOr<CacheSize> size =
      SizeCache(options, layout, decoder->config().max_position_embeddings,
                kernels.FreeBytes());
  if (!size.ok()) return size.status();
  absl::StatusOr<std::unique_ptr<PagedCache>> cache =
      PagedCache::Create(layout, size->num_blocks, options.block_size,
                         options.max_num_seqs, kernels);
  if (!cache.ok()) return cache.status();
  return std::make_unique<EngineImpl>(std::move(decoder), *std::move(cache),
                                      options, size->max_model_len, observer);
}

}  // namespace shoal
