// A GenerationService that answers with what a test puts in, and records what
// it was asked; a ServerMetrics that counts.
#pragma once

#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/errors.h"
#include "server/generation.h"
#include "server/metrics.h"

namespace shoal {

// The queue between a test and the reader of a generation. Thread safe.
class FakeFeed {
 public:
  void Put(GenerationDelta delta) {
    absl::MutexLock lock(&mutex_);
    deltas_.push_back(std::move(delta));
    if (notify_) notify_();
  }
  std::optional<GenerationDelta> Take() {
    absl::MutexLock lock(&mutex_);
    if (deltas_.empty()) return std::nullopt;
    GenerationDelta delta = std::move(deltas_.front());
    deltas_.pop_front();
    if (delta.finish_reason) ++num_finished_;
    return delta;
  }
  int num_finished() const {
    absl::MutexLock lock(&mutex_);
    return num_finished_;
  }
  void SetNotify(std::function<void()> notify) {
    absl::MutexLock lock(&mutex_);
    notify_ = std::move(notify);
    if (notify_ && !deltas_.empty()) notify_();
  }
  void Cancel() {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
  }
  // Whether the reader gave up within `timeout`.
  bool AwaitCancelled(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), timeout);
  }

 private:
  mutable absl::Mutex mutex_;
  std::deque<GenerationDelta> deltas_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> notify_ ABSL_GUARDED_BY(mutex_);
  int num_finished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

class FakeGeneration : public Generation {
 public:
  FakeGeneration(std::string id, int64_t n, std::shared_ptr<FakeFeed> feed)
      : id_(std::move(id)), n_(n), feed_(std::move(feed)) {}
  ~FakeGeneration() override {
    feed_->SetNotify(nullptr);
    if (!done()) feed_->Cancel();
  }
  std::optional<GenerationDelta> TryNext() override { return feed_->Take(); }
  bool done() const override { return feed_->num_finished() >= n_; }
  void SetNotify(std::function<void()> notify) override {
    feed_->SetNotify(std::move(notify));
  }
  void Cancel() override { feed_->Cancel(); }
  const std::string& request_id() const override { return id_; }
  absl::Time created() const override {
    return absl::FromUnixSeconds(1700000000);
  }
  int32_t prompt_tokens() const override { return 5; }
  const std::vector<int32_t>& prompt_token_ids() const override {
    return prompt_token_ids_;
  }

 private:
  const std::string id_;
  const int64_t n_;
  const std::shared_ptr<FakeFeed> feed_;
  const std::vector<int32_t> prompt_token_ids_ = {1, 2, 3, 4, 5};
};

// A character is a token.
class FakeText : public ModelText {
 public:
  int32_t vocab_size() const override { return 256; }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              bool special) const override {
    std::vector<int32_t> ids;
    if (special) ids.push_back(1);
    for (unsigned char c : text) ids.push_back(c);
    return ids;
  }
  bool has_chat_template() const override { return true; }
  absl::StatusOr<std::string> RenderChat(
      const ChatTemplateInput&) const override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const ChatTemplateInput&) const override {
    return absl::UnimplementedError("");
  }
  std::string_view TokenBytes(int32_t token) const override {
    return std::string_view(bytes_).substr(token, 1);
  }
  bool IsSpecial(int32_t) const override { return false; }
  std::optional<int32_t> TokenId(std::string_view) const override {
    return std::nullopt;
  }
  const std::vector<int32_t>& end_token_ids() const override { return ends_; }

 private:
  static std::string AllBytes() {
    std::string bytes;
    for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
    return bytes;
  }
  const std::string bytes_ = AllBytes();
  const std::vector<int32_t> ends_;
};

class FakeService : public GenerationService {
 public:
  FakeService() {
    info_.served_names = {"tiny", "org/tiny"};
    info_.loaded_at = absl::FromUnixSeconds(1600000000);
    info_.max_model_len = 64;
  }

  absl::StatusOr<std::unique_ptr<Generation>> Start(
      GenerationRequest request) override {
    absl::MutexLock lock(&mutex_);
    requests_.push_back(request);
    if (!refusal_.ok()) return refusal_;
    if (absl::Status status = CheckModel(request.model); !status.ok()) {
      return status;
    }
    auto feed = std::make_shared<FakeFeed>();
    for (const GenerationDelta& delta : script_) feed->Put(delta);
    feeds_.push_back(feed);
    return std::make_unique<FakeGeneration>(absl::StrCat("id", feeds_.size()),
                                            request.n, feed);
  }
  absl::Status CheckModel(const std::string& name) const override {
    for (const std::string& served : info_.served_names) {
      if (name.empty() || name == served) return absl::OkStatus();
    }
    return WithDetail(absl::NotFoundError("no such model"), "model",
                      "model_not_found");
  }
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const ChatPrompt& chat) override {
    std::string text;
    for (const ChatMessage& message : chat.messages) text += message.content;
    return text_.Encode(text + "|", /*special=*/false);
  }
  const ModelInfo& model_info() const override { return info_; }
  const ModelText& text() const override { return text_; }
  Engine& engine() override { std::abort(); }

  // What every generation says at once.
  void SetScript(std::vector<GenerationDelta> script) {
    absl::MutexLock lock(&mutex_);
    script_ = std::move(script);
  }
  void Refuse(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    refusal_ = std::move(status);
  }
  std::vector<GenerationRequest> requests() const {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }
  // Waits for the feed of the `index`th started generation.
  std::shared_ptr<FakeFeed> Feed(size_t index) {
    absl::MutexLock lock(&mutex_);
    const auto started = [&] { return feeds_.size() > index; };
    mutex_.Await(absl::Condition(&started));
    return feeds_[index];
  }

 private:
  ModelInfo info_;
  FakeText text_;
  mutable absl::Mutex mutex_;
  std::vector<GenerationDelta> script_ ABSL_GUARDED_BY(mutex_);
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  std::vector<GenerationRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<FakeFeed>> feeds_ ABSL_GUARDED_BY(mutex_);
};

class CountingMetrics : public ServerMetrics {
 public:
  void OnRequestReceived() override { ++received; }
  void OnRequestEnded(RequestOutcome outcome) override {
    if (outcome == RequestOutcome::kRejected) ++rejected;
  }
  void SetSnapshotSource(std::function<EngineSnapshot()>) override {}
  std::string Render() override { return "# metrics\n"; }
  void OnAccepted() override {}
  void OnRejected() override {}
  void OnStep(const StepStats&) override {}
  void OnFirstToken(double) override {}
  void OnInterTokenLatency(double) override {}
  void OnTokens(std::span<const int32_t>) override {}
  void OnFinished(const RequestStats&) override {}

  std::atomic<int> received = 0;
  std::atomic<int> rejected = 0;
};

inline GenerationDelta Delta(std::string text, int32_t completion_tokens,
                             int32_t index = 0) {
  GenerationDelta delta;
  delta.index = index;
  delta.text = std::move(text);
  delta.usage = {.prompt_tokens = 5,
                 .cached_tokens = 2,
                 .completion_tokens = completion_tokens};
  return delta;
}

inline GenerationDelta Last(std::string text, int32_t completion_tokens,
                            FinishReason reason = FinishReason::kStop,
                            int32_t index = 0) {
  GenerationDelta delta = Delta(std::move(text), completion_tokens, index);
  delta.finish_reason = reason;
  return delta;
}

}  // namespace shoal
