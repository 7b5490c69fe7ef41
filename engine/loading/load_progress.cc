#include "engine/loading/load_progress.h"

#include <chrono>
#include <utility>

namespace shoal {

LoadProgress AfterDelay(LoadProgress progress, double quiet_seconds) {
  if (!progress) return nullptr;
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  auto next = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                 Seconds(quiet_seconds));
  bool shown = false;
  return [progress = std::move(progress), next, shown](
             double fraction, std::string_view what) mutable {
    const auto now = Clock::now();
    const bool last_of_shown = shown && fraction >= 1;
    if (now < next && !last_of_shown) return;
    next = now + std::chrono::milliseconds(100);
    shown = true;
    progress(fraction, what);
  };
}

}  // namespace shoal
