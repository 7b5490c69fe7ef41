// Ids that name a request in logs and responses.
#pragma once

#include <string>

namespace shoal {

// 32 random hex digits. Thread safe.
std::string NewRequestId();

}  // namespace shoal
