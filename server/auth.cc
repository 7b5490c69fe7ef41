#include "server/auth.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "openssl/crypto.h"
#include "openssl/sha.h"

namespace shoal {
namespace {

constexpr size_t kMaxLineBytes = 512;
constexpr size_t kMaxFileBytes = 1 << 20;
constexpr char kDefaultName[] = "default";

std::array<uint8_t, 32> Digest(std::string_view key) {
  std::array<uint8_t, 32> digest;
  SHA256(reinterpret_cast<const uint8_t*>(key.data()), key.size(),
         digest.data());
  return digest;
}

absl::StatusOr<std::string> ReadPrivateFile(const std::string& path) {
  const auto named = [&](absl::string_view what) {
    return absl::StrCat("API key file ", path, ": ", what);
  };
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    return error == ENOENT
               ? absl::NotFoundError(named("does not exist"))
               : absl::PermissionDeniedError(named(std::strerror(error)));
  }
  struct stat info {};
  std::string text;
  absl::Status status;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(named("is not a regular file"));
  } else if ((info.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    status = absl::PermissionDeniedError(
        named("may be read or written by everybody (chmod o-rw it)"));
  } else if (info.st_size > static_cast<off_t>(kMaxFileBytes)) {
    status = absl::InvalidArgumentError(named("is larger than 1 MiB"));
  } else {
    text.resize(kMaxFileBytes);
    const ssize_t size = read(fd, text.data(), text.size());
    if (size < 0) {
      status = absl::PermissionDeniedError(named(std::strerror(errno)));
    }
    text.resize(size < 0 ? 0 : size);
  }
  close(fd);
  if (!status.ok()) return status;
  return text;
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Load(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadPrivateFile(path);
  if (!text.ok()) return text.status();
  ApiKeys keys;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    ++line_number;
    if (line.size() > kMaxLineBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("API key file ", path, ": line ", line_number,
                       " is longer than ", kMaxLineBytes, " bytes"));
    }
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    std::pair<absl::string_view, absl::string_view> parts =
        absl::StrContains(line, ":")
            ? absl::StrSplit(line, absl::MaxSplits(':', 1))
            : std::pair(absl::string_view(kDefaultName), line);
    const absl::string_view name = absl::StripAsciiWhitespace(parts.first);
    const absl::string_view key = absl::StripAsciiWhitespace(parts.second);
    if (name.empty() || key.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("API key file ", path, ": line ", line_number,
                       " is neither \"key\" nor \"name:key\""));
    }
    keys.entries_.push_back(
        {std::string(name), Digest(std::string_view(key.data(), key.size()))});
  }
  if (keys.entries_.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("API key file ", path, ": holds no key"));
  }
  return keys;
}

std::optional<std::string> ApiKeys::Check(std::string_view key) const {
  if (entries_.empty()) return kDefaultName;
  const std::array<uint8_t, 32> digest = Digest(key);
  // Every entry is compared, so that the time tells nothing of the place.
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) {
      found = &entry;
    }
  }
  if (found == nullptr) return std::nullopt;
  return found->name;
}

std::string_view ApiKeys::BearerToken(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() <= kScheme.size() ||
      !absl::EqualsIgnoreCase(
          absl::string_view(authorization.data(), kScheme.size()),
          absl::string_view(kScheme.data(), kScheme.size()))) {
    return {};
  }
  authorization.remove_prefix(kScheme.size());
  while (!authorization.empty() && authorization.front() == ' ') {
    authorization.remove_prefix(1);
  }
  while (!authorization.empty() && authorization.back() == ' ') {
    authorization.remove_suffix(1);
  }
  return authorization;
}

}  // namespace shoal
