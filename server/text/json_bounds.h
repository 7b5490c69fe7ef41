// Bounds on JSON that clients send inside strings, checked before a parser
// that builds values recursively or looks keys up one by one sees it.
#pragma once

#include <cstddef>
#include <string_view>

namespace shoal {

// Whether `json` nests at most `max_depth` deep and no object has more than
// 4096 members. Text that is no JSON gives any answer.
bool IsBoundedJson(std::string_view json, size_t max_depth = 64);

}  // namespace shoal
