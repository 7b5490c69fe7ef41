// shoal serve MODEL
#include <memory>
#include <string>

#include "server/cli/commands.h"
#include "server/cli/model_flags.h"
#include "server/logging.h"
#include "server/options.h"
#include "server/server.h"

namespace shoal {
namespace {

struct ServeFlags {
  ServeOptions options;
  double target_step_milliseconds = 0;
  bool no_prefix_caching = false;
};

void AddPortFlags(CLI::App* command, ServeOptions* options) {
  const char* group = "Ports";
  command->add_option("--grpc-address", options->grpc_address, "host:port")
      ->capture_default_str()
      ->group(group);
  command->add_option("--http-address", options->http_address, "host:port")
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--served-model-name", options->served_model_names,
                   "Names clients may ask for; the first is answered")
      ->delimiter(',')
      ->group(group);
  command
      ->add_option("--api-key-file", options->api_key_file,
                   "Demand one of this file's keys; a line is KEY or NAME:KEY")
      ->group(group);
  CLI::Option* certificate =
      command
          ->add_option("--tls-certificate", options->tls.certificate,
                       "PEM chain for both ports")
          ->group(group);
  CLI::Option* key = command
                         ->add_option("--tls-key", options->tls.key,
                                      "PEM key of the certificate")
                         ->group(group);
  certificate->needs(key);
  key->needs(certificate);
  command
      ->add_option("--tls-client-ca", options->tls.client_ca,
                   "Demand client certificates of this PEM authority")
      ->needs(certificate)
      ->group(group);
  command
      ->add_option("--cors-allowed-origin", options->cors_allowed_origins,
                   "Origin whose pages may call the HTTP API; * for any")
      ->group(group);
  command
      ->add_option("--max-body-bytes", options->max_body_bytes,
                   "Largest HTTP body and gRPC message")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 30))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--max-connections", options->max_connections,
                   "HTTP connections at once")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--drain-seconds", options->drain_seconds,
                   "Time for running requests after SIGTERM")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str()
      ->group(group);
}

void AddEngineFlags(CLI::App* command, ServeFlags* flags) {
  EngineOptions* engine = &flags->options.engine;
  engine->max_num_batched_tokens = 0;
  const char* group = "Engine";
  command
      ->add_option("--max-num-seqs", engine->max_num_seqs,
                   "Sequences that run at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--max-num-batched-tokens", engine->max_num_batched_tokens,
                   "Most tokens of a step; 0: 512 on the CPU, 2048 on a GPU")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--max-model-len", engine->max_model_len,
                   "Context in tokens; 0: the model's own")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--block-size", engine->block_size,
                   "Tokens a block of the KV cache")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--memory-fraction", engine->memory_fraction,
                   "Part of the free memory that the KV cache may use")
      ->check(CLI::Range(0.001, 0.99))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--kv-cache-bytes", engine->kv_cache_bytes,
                   "Size of the KV cache; 0: by --memory-fraction")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--max-num-queued-requests", engine->max_num_queued_requests,
                   "Requests that may wait before new ones are refused")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--target-step-milliseconds",
                   flags->target_step_milliseconds,
                   "Step time to steer toward; 0: always the most tokens")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(group);
  command
      ->add_flag("--no-prefix-caching", flags->no_prefix_caching,
                 "Compute every prompt anew")
      ->group(group);
}

void AddObservationFlags(CLI::App* command, ServeOptions* options) {
  const char* group = "Observation";
  command->add_option("--log-format", options->log_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--log-level", options->log_level,
                   "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--drift-baseline", options->drift_baseline,
                   "File of the token distribution that drift is measured from")
      ->group(group);
}

int Serve(ServeFlags& flags) {
  ServeOptions& options = flags.options;
  options.engine.enable_prefix_caching = !flags.no_prefix_caching;
  options.engine.target_step_time =
      absl::Milliseconds(flags.target_step_milliseconds);
  absl::Status status = SetUpLogging(options.log_format, options.log_level);
  if (status.ok()) status = RunServer(options);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace

Run AddServeCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "serve", "Serve a model over gRPC, HTTP and a chat page");
  auto flags = std::make_shared<ServeFlags>();
  AddModelFlags(command, &flags->options.model);
  AddPortFlags(command, &flags->options);
  AddEngineFlags(command, flags.get());
  AddObservationFlags(command, &flags->options);
  return [flags] { return Serve(*flags); };
}

}  // namespace shoal
