// The subcommands of `shoal`. Each adds itself to the command line; when it was
// chosen, its Run is called after parsing and gives the process's exit code.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"

namespace shoal {

using Run = std::function<int()>;

Run AddServeCommand(CLI::App& app);
Run AddChatCommand(CLI::App& app);
Run AddInspectCommand(CLI::App& app);
Run AddBenchCommand(CLI::App& app);
Run AddHealthCommand(CLI::App& app);
Run AddSynthCommand(CLI::App& app);
Run AddLogitsCommand(CLI::App& app);

// One line on stderr; gives exit code 1.
int Fail(const absl::Status& status);

}  // namespace shoal
