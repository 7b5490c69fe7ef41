// GenerationReactor writes one generation to one gRPC stream: one write in
// flight, the next delta taken only when the former was written, so a slow
// reader pauses its own sequences and nothing else. The call's cancellation
// reaches the engine at once. It owns itself until gRPC is done with it.
//
// Threads: gRPC's callbacks, the workers and the step thread's notification all
// meet in Pump(), under one mutex; the step thread only posts to the workers.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "boost/asio/post.hpp"
#include "boost/asio/thread_pool.hpp"
#include "grpcpp/grpcpp.h"
#include "server/generation.h"
#include "server/rpc/convert.h"
#include "server/rpc/status_mapping.h"

namespace shoal {

template <typename Response>
class GenerationReactor
    : public grpc::ServerWriteReactor<Response>,
      public std::enable_shared_from_this<GenerationReactor<Response>> {
 public:
  using Begin = std::function<absl::StatusOr<std::unique_ptr<Generation>>()>;

  // Runs `begin` on a worker, then streams. The result is for gRPC to keep.
  static GenerationReactor* Start(grpc::CallbackServerContext* context,
                                  boost::asio::thread_pool& workers,
                                  const ModelInfo& model, bool token_ids,
                                  Begin begin) {
    auto reactor = std::shared_ptr<GenerationReactor>(
        new GenerationReactor(context, workers, model, token_ids));
    reactor->self_ = reactor;
    boost::asio::post(workers, [reactor, begin = std::move(begin)] {
      reactor->Open(begin());
    });
    return reactor.get();
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) cancelled_ = true;
    }
    Pump();
  }
  void OnCancel() override {
    {
      absl::MutexLock lock(&mutex_);
      cancelled_ = true;
    }
    Pump();
  }
  void OnDone() override {
    std::shared_ptr<GenerationReactor> self = std::move(self_);
  }

 private:
  GenerationReactor(grpc::CallbackServerContext* context,
                    boost::asio::thread_pool& workers, const ModelInfo& model,
                    bool token_ids)
      : context_(context),
        workers_(workers),
        model_(model),
        token_ids_(token_ids) {}

  void Open(absl::StatusOr<std::unique_ptr<Generation>> generation) {
    Generation* opened = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      if (generation.ok()) {
        generation_ = *std::move(generation);
        opened = generation_.get();
      } else {
        status_ = generation.status();
      }
      open_ = true;
    }
    if (opened != nullptr) {
      std::weak_ptr<GenerationReactor> weak = this->weak_from_this();
      boost::asio::thread_pool& workers = workers_;
      opened->SetNotify([weak, &workers] {
        boost::asio::post(workers, [weak] {
          if (auto reactor = weak.lock()) reactor->Pump();
        });
      });
    }
    Pump();
  }

  // Does the next thing there is to do, if any.
  void Pump() {
    std::unique_ptr<Generation> ended;  // destroyed without the lock
    absl::MutexLock lock(&mutex_);
    if (!open_ || writing_ || finished_) return;
    if (generation_ == nullptr || cancelled_) {
      if (cancelled_) status_ = absl::CancelledError("the client went away");
      ended = Close();
      return;
    }
    response_.Clear();
    if (!started_) {
      started_ = true;
      *response_.mutable_start() = MakeStart(*generation_, model_, token_ids_);
      Write();
      return;
    }
    if (std::optional<GenerationDelta> delta = generation_->TryNext()) {
      NoteEnd(*delta);
      ToProto(*delta, token_ids_, &response_);
      Write();
    } else if (generation_->done()) {
      ended = Close();
    }
  }

  void NoteEnd(const GenerationDelta& delta)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!delta.finish_reason.has_value()) return;
    switch (*delta.finish_reason) {
      case FinishReason::kDeadline:
      case FinishReason::kError:
        status_ = delta.status;
        break;
      case FinishReason::kCancelled:
        status_ = absl::UnavailableError("the server ended this request");
        break;
      default:
        break;
    }
  }

  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    writing_ = true;
    this->StartWrite(&response_);
  }

  std::unique_ptr<Generation> Close() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    finished_ = true;
    this->Finish(ToGrpcStatus(status_, *context_));
    return std::move(generation_);
  }

  grpc::CallbackServerContext* const context_;
  boost::asio::thread_pool& workers_;
  const ModelInfo& model_;
  const bool token_ids_;
  std::shared_ptr<GenerationReactor> self_;

  absl::Mutex mutex_;
  std::unique_ptr<Generation> generation_ ABSL_GUARDED_BY(mutex_);
  Response response_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool open_ ABSL_GUARDED_BY(mutex_) = false;  // `begin` has answered
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace shoal
