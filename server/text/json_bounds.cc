#include "server/text/json_bounds.h"

#include <vector>

namespace shoal {

bool IsBoundedJson(std::string_view json, size_t max_depth) {
  constexpr size_t kMaxMembers = 4096;
  std::vector<size_t> members;  // of each open value
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        break;
      case '{':
      case '[':
        if (members.size() == max_depth) return false;
        members.push_back(0);
        break;
      case '}':
      case ']':
        if (!members.empty()) members.pop_back();
        break;
      case ':':
        if (!members.empty() && ++members.back() > kMaxMembers) return false;
        break;
      default:
        break;
    }
  }
  return true;
}

}  // namespace shoal
