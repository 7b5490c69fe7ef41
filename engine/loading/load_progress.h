// Progress of loading as a plain callback: whoever starts a load decides where
// it is shown.
#pragma once

#include <functional>
#include <string_view>

namespace shoal {

// `fraction` is in [0, 1]; `what` says in a few words what is being done and is
// valid during the call. May be empty: check before calling. Called from one
// thread at a time.
using LoadProgress =
    std::function<void(double fraction, std::string_view what)>;

// A callback that stays silent until `quiet_seconds` after its creation and
// then passes on at most ten calls a second, and the last one (fraction 1),
// so that quick loads print nothing. Empty when `progress` is.
LoadProgress AfterDelay(LoadProgress progress, double quiet_seconds = 1);

}  // namespace shoal
