// ServerMetrics holds every family the server exports and feeds them from the
// engine's observer and from the requests' ends. Names follow vLLM where a
// meaning is shared, so that existing dashboards and autoscalers work
// unchanged; families of our own start with shoal_. Labels are bounded: nothing
// a client sends becomes one. Handles are kept, so an update costs an atomic.
//
// Every request is counted once when it arrives and once when it ends:
//   shoal_requests_received_total = Σ over outcome of
//   shoal_requests_ended_total{outcome} + those still running.
// Thread safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/engine.h"
#include "engine/observer.h"

namespace shoal {

class DriftMonitor;

enum class RequestOutcome { kOk, kError, kCancelled, kDeadline, kRejected };

struct MetricsOptions {
  std::string model_name;  // label of the vllm: families
  std::string device;      // "cpu"; label of weights, cache and workspace
  std::string cpu_isa;     // label of shoal_build_info
  // Of `device`. 0: on the CPU that of the cgroup or machine, else not
  // exported.
  int64_t memory_limit_bytes = 0;
  int32_t max_model_len = 32768;  // tokens; ends the buckets of request lengths
};

class ServerMetrics : public EngineObserver {
 public:
  // `drift` (may be nullptr) is fed by OnTokens and read by Render; it must
  // outlive this.
  static std::unique_ptr<ServerMetrics> Create(const MetricsOptions& options,
                                               DriftMonitor* drift);

  // Any request of any protocol, before it is looked at.
  virtual void OnRequestReceived() = 0;
  // Once for each received one.
  virtual void OnRequestEnded(RequestOutcome outcome) = 0;
  // Gauges that are read at a scrape come from here. Call before Render(); the
  // function must stay callable as long as this.
  virtual void SetSnapshotSource(std::function<EngineSnapshot()> source) = 0;

  // Prometheus text format 0.0.4.
  virtual std::string Render() = 0;
};

}  // namespace shoal
