#include "server/drift.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace shoal {
namespace {

using nlohmann::json;
using TokenCounts = absl::flat_hash_map<int32_t, int64_t>;

// The file: {"version": 1, "model": "name", "counts": [[token, count], ...]}
constexpr int kVersion = 1;
constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr int64_t kMaxCount = int64_t{1} << 38;

std::string EncodeBaseline(const std::string& model,
                           const TokenCounts& counts) {
  std::vector<std::pair<int32_t, int64_t>> sorted(counts.begin(), counts.end());
  std::sort(sorted.begin(), sorted.end());
  const json file = {
      {"version", kVersion}, {"model", model}, {"counts", sorted}};
  return file.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

// [token, count] of a baseline, or nothing where it is anything else.
std::optional<std::pair<int32_t, int64_t>> DecodeCount(const json& pair) {
  if (!pair.is_array() || pair.size() != 2) return std::nullopt;
  if (!pair[0].is_number_unsigned() || !pair[1].is_number_unsigned()) {
    return std::nullopt;
  }
  const auto token = pair[0].get<uint64_t>();
  const auto count = pair[1].get<uint64_t>();
  if (token > std::numeric_limits<int32_t>::max()) return std::nullopt;
  if (count == 0 || count > kMaxCount) return std::nullopt;
  return std::pair(static_cast<int32_t>(token), static_cast<int64_t>(count));
}

absl::Status DecodeBaseline(const std::string& text, const std::string& model,
                            TokenCounts& counts) {
  const json file = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!file.is_object() || !file.contains("version") ||
      !file.contains("counts") || !file["counts"].is_array()) {
    return absl::InvalidArgumentError("is no drift baseline");
  }
  if (file["version"] != kVersion) {
    return absl::InvalidArgumentError("is of a version not known here");
  }
  if (file.value("model", json()) != json(model)) {
    return absl::FailedPreconditionError("was recorded with another model");
  }
  for (const json& pair : file["counts"]) {
    const auto entry = DecodeCount(pair);
    if (!entry || !counts.insert(*entry).second) {
      return absl::InvalidArgumentError("holds a bad or repeated count");
    }
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int file, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(file, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, "write");
    done += static_cast<size_t>(n);
  }
  if (fsync(file) != 0) return absl::ErrnoToStatus(errno, "fsync");
  return absl::OkStatus();
}

// The name in a folder outlives a power cut once the folder is synced.
absl::Status SyncFolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  std::string folder = ".";
  if (slash != std::string::npos) folder = path.substr(0, slash + 1);
  const int file = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return absl::ErrnoToStatus(errno, "open folder");
  const int failed = fsync(file);
  const int error = errno;
  close(file);
  return failed ? absl::ErrnoToStatus(error, "fsync folder") : absl::OkStatus();
}

absl::Status WriteWhole(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  const int file =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return absl::ErrnoToStatus(errno, "open");
  absl::Status status = WriteAll(file, text);
  close(file);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, "rename");
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return SyncFolderOf(path);
}

int64_t Total(const TokenCounts& counts) {
  int64_t total = 0;
  for (const auto& [token, count] : counts) total += count;
  return total;
}

// Of `window` (n tokens) from `baseline` (m tokens); see the header.
double Divergence(const TokenCounts& window, double n,
                  const TokenCounts& baseline, double m) {
  const double least = DriftMonitor::kMinExpected * std::max(1.0, m / n);
  double bins = 1;
  for (const auto& [token, count] : baseline) {
    if (static_cast<double>(count) >= least) bins += 1;
  }
  constexpr double kAlpha = DriftMonitor::kSmoothing;
  const auto term = [&](double in_window, double in_baseline) {
    const double p = (in_window + kAlpha) / (n + kAlpha * bins);
    const double q = (in_baseline + kAlpha) / (m + kAlpha * bins);
    return p * std::log(p / q);
  };
  double sum = 0;
  double window_rest = n;
  double baseline_rest = m;
  for (const auto& [token, count] : baseline) {
    const auto in_baseline = static_cast<double>(count);
    if (in_baseline < least) continue;
    const auto found = window.find(token);
    const auto in_window =
        static_cast<double>(found == window.end() ? 0 : found->second);
    sum += term(in_window, in_baseline);
    window_rest -= in_window;
    baseline_rest -= in_baseline;
  }
  sum += term(window_rest, baseline_rest);
  const double bias = (bins - 1) / 2 * (1 / n + 1 / m);
  return std::max(0.0, sum - bias);
}

}  // namespace

DriftMonitor::DriftMonitor(DriftOptions options)
    : options_(std::move(options)) {
  ring_.reserve(options_.window_tokens);
}

void DriftMonitor::Add(std::span<const int32_t> token_ids) {
  absl::MutexLock lock(&mutex_);
  for (int32_t token : token_ids) {
    ++window_[token];
    if (ring_.size() < options_.window_tokens) {
      ring_.push_back(token);
      continue;
    }
    const auto oldest = window_.find(std::exchange(ring_[next_], token));
    if (--oldest->second == 0) window_.erase(oldest);
    next_ = (next_ + 1) % ring_.size();
  }
}

DriftReading DriftMonitor::Read() const {
  absl::MutexLock lock(&mutex_);
  DriftReading reading{
      .kl = std::numeric_limits<double>::quiet_NaN(),
      .window_tokens = static_cast<int64_t>(ring_.size()),
      .baseline_tokens = baseline_tokens_,
  };
  if (baseline_tokens_ > 0 && ring_.size() >= options_.min_window_tokens) {
    reading.kl = Divergence(window_, static_cast<double>(reading.window_tokens),
                            baseline_, static_cast<double>(baseline_tokens_));
  }
  return reading;
}

absl::Status DriftMonitor::CheckEnough(int64_t tokens) const {
  if (tokens >= static_cast<int64_t>(options_.min_baseline_tokens) &&
      tokens > 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("a drift baseline needs ", options_.min_baseline_tokens,
                   " tokens, there are ", tokens));
}

void DriftMonitor::Adopt(Counts counts) {
  absl::MutexLock lock(&mutex_);
  baseline_tokens_ = Total(counts);
  baseline_ = std::move(counts);
}

absl::Status DriftMonitor::RecordBaseline(const std::string& path) {
  // The file and the baseline in use must not come from two windows.
  absl::MutexLock one_at_a_time(&file_mutex_);
  Counts counts;
  {
    absl::MutexLock lock(&mutex_);
    counts = window_;
  }
  const absl::Status enough = CheckEnough(Total(counts));
  if (!enough.ok()) return enough;
  const absl::Status written =
      WriteWhole(path, EncodeBaseline(options_.model_name, counts));
  if (!written.ok()) {
    return absl::InternalError(
        absl::StrCat("drift baseline ", path, ": ", written.message()));
  }
  Adopt(std::move(counts));
  return absl::OkStatus();
}

absl::Status DriftMonitor::LoadBaseline(const std::string& path) {
  absl::MutexLock one_at_a_time(&file_mutex_);
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("drift baseline ", path));
  }
  if (!S_ISREG(info.st_mode) || info.st_size > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("drift baseline ", path, ": no file of a fit size"));
  }
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  Counts counts;
  absl::Status status = DecodeBaseline(text.str(), options_.model_name, counts);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("drift baseline ", path,
                                                    " ", status.message()));
  }
  status = CheckEnough(Total(counts));
  if (!status.ok()) return status;
  Adopt(std::move(counts));
  return absl::OkStatus();
}

}  // namespace shoal
