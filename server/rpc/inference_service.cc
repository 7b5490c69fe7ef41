#include "server/rpc/inference_service.h"

#include <string>
#include <utility>
#include <vector>

#include "boost/asio/post.hpp"
#include "server/errors.h"
#include "server/rpc/call_context.h"
#include "server/rpc/convert.h"
#include "server/rpc/generation_reactor.h"
#include "server/rpc/status_mapping.h"
#include "shoal/v1/inference.grpc.pb.h"

namespace shoal {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

class InferenceService : public v1::Inference::CallbackService {
 public:
  InferenceService(GenerationService& generation, const ApiKeys& keys,
                   ServerMetrics* metrics, boost::asio::thread_pool& workers)
      : generation_(generation),
        keys_(keys),
        metrics_(metrics),
        workers_(workers) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      CallbackServerContext* context,
      const v1::GenerateRequest* request) override {
    return Stream<v1::GenerateResponse>(
        context, request->options().token_ids(),
        [request] { return FromProto(*request); });
  }

  grpc::ServerWriteReactor<v1::ChatResponse>* Chat(
      CallbackServerContext* context, const v1::ChatRequest* request) override {
    return Stream<v1::ChatResponse>(
        context, request->options().token_ids(),
        [request]() -> absl::StatusOr<GenerationRequest> {
          return FromProto(*request);
        });
  }

  ServerUnaryReactor* Tokenize(CallbackServerContext* context,
                               const v1::TokenizeRequest* request,
                               v1::TokenizeResponse* response) override {
    return Unary(context, [this, request, response]() -> absl::Status {
      absl::StatusOr<std::vector<int32_t>> ids;
      if (request->has_chat()) {
        ids = generation_.EncodeChat(ChatFromProto(request->chat()));
      } else {
        ids = generation_.text().Encode(request->text(),
                                        request->add_special_tokens());
      }
      if (!ids.ok()) return ids.status();
      response->mutable_token_ids()->Add(ids->begin(), ids->end());
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* Detokenize(CallbackServerContext* context,
                                 const v1::DetokenizeRequest* request,
                                 v1::DetokenizeResponse* response) override {
    return Unary(context, [this, request, response]() -> absl::Status {
      const ModelText& text = generation_.text();
      for (int32_t id : request->token_ids()) {
        if (id >= 0 && id < text.vocab_size()) continue;
        return WithDetail(
            absl::InvalidArgumentError("token_ids: expected ids of the model"),
            "token_ids", "invalid_value");
      }
      response->set_text(
          text.Decode(std::vector<int32_t>(request->token_ids().begin(),
                                           request->token_ids().end()),
                      !request->keep_special_tokens()));
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* GetModel(CallbackServerContext* context,
                               const v1::GetModelRequest*,
                               v1::Model* response) override {
    return Unary(context, [this, response] {
      const EngineSnapshot engine = generation_.engine().Snapshot();
      for (const std::string& name : generation_.model_info().served_names) {
        response->add_names(name);
      }
      response->set_vocab_size(
          static_cast<int32_t>(generation_.engine().config().vocab_size));
      response->set_max_model_len(engine.max_model_len);
      response->set_max_num_seqs(engine.max_num_seqs);
      response->set_block_size(engine.block_size);
      response->set_num_blocks(engine.total_blocks);
      response->set_has_chat_template(generation_.text().has_chat_template());
      return absl::OkStatus();
    });
  }

 private:
  // `convert` reads the request message, which lives as long as the call.
  template <typename Response, typename Convert>
  grpc::ServerWriteReactor<Response>* Stream(CallbackServerContext* context,
                                             bool token_ids, Convert convert) {
    return GenerationReactor<Response>::Start(
        context, workers_, generation_.model_info(), token_ids,
        [this, context,
         convert]() -> absl::StatusOr<std::unique_ptr<Generation>> {
          absl::StatusOr<std::string> tenant = Authenticate(*context, keys_);
          if (!tenant.ok()) return Rejected(tenant.status());
          absl::StatusOr<GenerationRequest> request = convert();
          if (!request.ok()) return Rejected(request.status());
          request->request_id = RequestId(*context);
          request->tenant = *std::move(tenant);
          request->deadline = Deadline(*context);
          return generation_.Start(*std::move(request));
        });
  }

  // A generation that ends before the service sees it.
  absl::Status Rejected(absl::Status status) {
    if (metrics_ != nullptr) {
      metrics_->OnRequestReceived();
      metrics_->OnRequestEnded(RequestOutcome::kRejected);
    }
    return status;
  }

  template <typename Body>
  ServerUnaryReactor* Unary(CallbackServerContext* context, Body body) {
    ServerUnaryReactor* reactor = context->DefaultReactor();
    boost::asio::post(workers_, [this, context, reactor, body] {
      absl::Status status = Authenticate(*context, keys_).status();
      if (status.ok()) status = body();
      reactor->Finish(ToGrpcStatus(status, *context));
    });
    return reactor;
  }

  GenerationService& generation_;
  const ApiKeys& keys_;
  ServerMetrics* const metrics_;
  boost::asio::thread_pool& workers_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(
    GenerationService& generation, const ApiKeys& keys, ServerMetrics* metrics,
    boost::asio::thread_pool& workers) {
  return std::make_unique<InferenceService>(generation, keys, metrics, workers);
}

}  // namespace shoal
