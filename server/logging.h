// Where log lines go and how they look: stderr, one line an event, as text or
// as JSON objects {"time", "level", "message"}.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace shoal {

// Sets up spdlog's default logger. InvalidArgument for an unknown format (text,
// json) or level (debug, info, warning, error). Call once, from main.
absl::Status SetUpLogging(const std::string& format, const std::string& level);

}  // namespace shoal
