#include "server/rpc/admin_service.h"

#include <utility>

#include "server/rpc/call_context.h"
#include "server/rpc/status_mapping.h"
#include "shoal/v1/admin.grpc.pb.h"

namespace shoal {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

class AdminService : public v1::Admin::CallbackService {
 public:
  AdminService(AdminContext context, const ApiKeys& keys)
      : admin_(std::move(context)), keys_(keys) {}

  ServerUnaryReactor* Drain(CallbackServerContext* context,
                            const v1::DrainRequest*,
                            v1::DrainResponse*) override {
    return Answer(context, [this] {
      admin_.lifecycle.Set(Lifecycle::State::kDraining);
      admin_.generation.engine().StartDrain();
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* GetStatus(CallbackServerContext* context,
                                const v1::GetStatusRequest*,
                                v1::Status* response) override {
    return Answer(context, [this, response] {
      const EngineSnapshot engine = admin_.generation.engine().Snapshot();
      response->set_state(
          std::string(LifecycleStateName(admin_.lifecycle.state())));
      response->set_num_running(engine.num_running);
      response->set_num_waiting(engine.num_waiting);
      response->set_free_blocks(engine.free_blocks);
      response->set_total_blocks(engine.total_blocks);
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* RecordDriftBaseline(
      CallbackServerContext* context, const v1::RecordDriftBaselineRequest*,
      v1::RecordDriftBaselineResponse* response) override {
    return Answer(context, [this, response]() -> absl::Status {
      if (admin_.drift_baseline.empty()) {
        return absl::FailedPreconditionError(
            "the server was started without --drift-baseline FILE");
      }
      absl::Status status = admin_.drift.RecordBaseline(admin_.drift_baseline);
      if (!status.ok()) return status;
      response->set_num_tokens(admin_.drift.Read().baseline_tokens);
      return absl::OkStatus();
    });
  }

 private:
  template <typename Body>
  ServerUnaryReactor* Answer(CallbackServerContext* context, Body body) {
    ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::Status status = Authenticate(*context, keys_).status();
    if (status.ok()) status = body();
    reactor->Finish(ToGrpcStatus(status, *context));
    return reactor;
  }

  const AdminContext admin_;
  const ApiKeys& keys_;
};

}  // namespace

std::string_view LifecycleStateName(Lifecycle::State state) {
  switch (state) {
    case Lifecycle::State::kStarting:
      return "starting";
    case Lifecycle::State::kReady:
      return "ready";
    case Lifecycle::State::kDraining:
      return "draining";
    case Lifecycle::State::kFailed:
      return "failed";
  }
  return "";
}

std::unique_ptr<grpc::Service> MakeAdminService(AdminContext context,
                                                const ApiKeys& keys) {
  return std::make_unique<AdminService>(std::move(context), keys);
}

}  // namespace shoal
