#include "server/metrics_process.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace shoal {
namespace {

// The whole of a small file; empty if there is none.
std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number after `key` at the start of a line; -1 if there is none.
int64_t NumberAfter(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    int64_t value = -1;
    if (absl::StartsWith(line, key) &&
        std::istringstream(line.substr(key.size())) >> value) {
      return value;
    }
  }
  return -1;
}

// The least limit in `file` of the folder `mount` + `path` and its parents. In
// a container the path may name folders that only the host sees; those are
// passed over, and the mount's own file is the container's.
int64_t LeastLimit(const std::string& mount, std::string path,
                   const std::string& file) {
  int64_t least = std::numeric_limits<int64_t>::max();
  while (true) {
    int64_t limit = 0;
    // "max" is no number: no limit here.
    if (std::istringstream(ReadText(absl::StrCat(mount, path, "/", file))) >>
            limit &&
        limit > 0) {
      least = std::min(least, limit);
    }
    if (path.empty()) return least;
    const size_t slash = path.rfind('/');
    path.resize(slash == std::string::npos ? 0 : slash);
  }
}

}  // namespace

int64_t ResidentBytes(const std::string& root) {
  int64_t total = 0;
  int64_t resident = 0;
  std::istringstream(ReadText(root + "/proc/self/statm")) >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

double ProcessStartSeconds(const std::string& root) {
  const std::string stat = ReadText(root + "/proc/self/stat");
  const int64_t boot = NumberAfter(ReadText(root + "/proc/stat"), "btime");
  // Field 2 is the program's name in parentheses and may hold anything.
  const size_t name_end = stat.rfind(") ");
  if (name_end == std::string::npos || boot < 0) return 0;
  std::istringstream fields(stat.substr(name_end + 2));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double ticks = 0;
  if (!(fields >> ticks)) return 0;
  return static_cast<double>(boot) +
         ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int64_t MemoryLimitBytes(const std::string& root) {
  int64_t least = std::numeric_limits<int64_t>::max();
  const int64_t machine_kib =
      NumberAfter(ReadText(root + "/proc/meminfo"), "MemTotal:");
  if (machine_kib > 0) least = machine_kib * 1024;
  std::istringstream groups(ReadText(root + "/proc/self/cgroup"));
  const std::string mount = root + "/sys/fs/cgroup";
  std::string line;  // "id:controllers:/path"
  while (std::getline(groups, line)) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers =
        absl::StrCat(",", line.substr(first + 1, second - first - 1), ",");
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(least, LeastLimit(mount, path, "memory.max"));
    } else if (absl::StrContains(controllers, ",memory,")) {
      least = std::min(
          least, LeastLimit(mount + "/memory", path, "memory.limit_in_bytes"));
    }
  }
  return least == std::numeric_limits<int64_t>::max() ? 0 : least;
}

}  // namespace shoal
