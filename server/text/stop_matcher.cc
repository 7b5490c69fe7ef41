#include "server/text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace shoal {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop)
    : stops_(std::move(stops)), include_stop_(include_stop) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
  std::ranges::stable_sort(stops_, std::ranges::greater(), &std::string::size);
}

StopMatcher::Result StopMatcher::Push(std::string_view text) {
  held_.append(text);
  const std::string_view all = held_;
  size_t at = 0;
  for (; at < all.size(); ++at) {
    const std::string_view rest = all.substr(at);
    // Longest first: the first whole match wins, unless a longer one could
    // still become whole here.
    bool is_open = false;
    for (const std::string& stop : stops_) {
      if (rest.starts_with(stop)) {
        if (is_open) break;
        Result result;
        result.text = all.substr(0, at + (include_stop_ ? stop.size() : 0));
        result.matched = true;
        result.stop = stop;
        held_.clear();
        return result;
      }
      is_open = is_open || std::string_view(stop).starts_with(rest);
    }
    if (is_open) break;
  }
  Result result;
  result.text = all.substr(0, at);
  held_.erase(0, at);
  return result;
}

StopMatcher::Result StopMatcher::Finish() {
  const std::string held = std::exchange(held_, "");
  for (size_t at = 0; at < held.size(); ++at) {
    for (const std::string& stop : stops_) {
      if (!std::string_view(held).substr(at).starts_with(stop)) continue;
      return {held.substr(0, at + (include_stop_ ? stop.size() : 0)), true,
              stop};
    }
  }
  return {held, false, ""};
}

}  // namespace shoal
