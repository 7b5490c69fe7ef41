// shoal COMMAND [OPTIONS]; `shoal --help` lists the commands.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "server/cli/commands.h"

namespace shoal {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "shoal: %s\n", std::string(status.message()).c_str());
  return 1;
}

namespace {

int Main(int argc, char** argv) {
  CLI::App app(
      "Serves language models of the DeepSeek family and its dense "
      "relatives.",
      "shoal");
  app.set_version_flag("--version", std::string("shoal ") + SHOAL_VERSION);
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, Run>> commands;
  for (const auto& add :
       {AddServeCommand, AddChatCommand, AddInspectCommand, AddBenchCommand,
        AddHealthCommand, AddSynthCommand, AddLogitsCommand}) {
    Run run = add(app);
    commands.emplace_back(app.get_subcommands({}).back(), std::move(run));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  for (const auto& [command, run] : commands) {
    if (command->parsed()) return run();
  }
  return 1;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  try {
    return shoal::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "shoal: %s\n", error.what());
    return 1;
  }
}
