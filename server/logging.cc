#include "server/logging.h"

#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

// The message as a JSON string, whatever bytes it holds.
class JsonMessage : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const std::string text =
        nlohmann::json(
            std::string(message.payload.begin(), message.payload.end()))
            .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessage>();
  }
};

}  // namespace

absl::Status SetUpLogging(const std::string& format, const std::string& level) {
  static const std::map<std::string, spdlog::level::level_enum> kLevels = {
      {"debug", spdlog::level::debug},
      {"info", spdlog::level::info},
      {"warning", spdlog::level::warn},
      {"error", spdlog::level::err}};
  const auto it = kLevels.find(level);
  if (it == kLevels.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "log-level: expected debug, info, warning or error, got \"", level,
        "\""));
  }
  if (format != "text" && format != "json") {
    return absl::InvalidArgumentError(absl::StrCat(
        "log-format: expected text or json, got \"", format, "\""));
  }
  auto logger = spdlog::stderr_logger_mt("shoal");
  auto formatter = std::make_unique<spdlog::pattern_formatter>(
      spdlog::pattern_time_type::utc);
  formatter->add_flag<JsonMessage>('*');
  formatter->set_pattern(
      format == "json"
          ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","message":%*})"
          : "%Y-%m-%d %H:%M:%S.%e %L %v");
  logger->set_formatter(std::move(formatter));
  logger->set_level(it->second);
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

}  // namespace shoal
