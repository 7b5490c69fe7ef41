// StopMatcher finds stop strings in streamed text. Text that could still become
// a stop string is held back until decided, so nothing of a match is ever sent.
// The earliest match wins; at one place the longest. One thread at a time.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

class StopMatcher {
 public:
  // Empty strings are ignored. `include_stop`: the match itself is output too.
  StopMatcher(std::vector<std::string> stops, bool include_stop);

  struct Result {
    std::string text;  // safe to send
    bool matched = false;
    std::string stop;  // the string that matched
  };
  // REQUIRES: no earlier call matched.
  Result Push(std::string_view text);
  // What was held back, when what comes next cannot continue it. A stop string
  // in it, which a longer one could have replaced, matches now.
  Result Finish();

 private:
  std::vector<std::string> stops_;
  bool include_stop_;
  std::string held_;
};

}  // namespace shoal
