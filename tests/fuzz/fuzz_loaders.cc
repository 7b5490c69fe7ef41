// fuzz_loaders [--flips N] [--seed S] [--target SUBSTRING] [--list]
// Damages every file of small models, one change at a time, and loads what
// comes of it: truncations, then N flipped bytes a file (2000). Half of them
// are among the first 4 KiB, where headers are; every fourth one makes a digit
// another digit if it can, so that numbers lie rather than syntax. A damaged
// model loads and runs, or is refused with one line that names file, field,
// expected and got. Last come runs of 0xff, which are NaNs in every float type.
//
// A run depends on its seed alone. When the process dies, its last line on
// stderr names the change that killed it; --target and --seed make it again.
// Prints a line a file and a summary. Exit status 1: an error without that
// form, or a truncation that loads.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_table.h"
#include "tests/fuzz/model_probe.h"
#include "tests/fuzz/targets.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace shoal {
namespace {

namespace fs = std::filesystem;

constexpr size_t kHeaderBytes = 4096;
constexpr int kTruncations = 64;
constexpr int kRuns = 64;  // of NaNs
constexpr size_t kRunBytes = 1024;
constexpr unsigned kSecondsPerCase = 60;

struct Options {
  int flips = 2000;
  unsigned seed = 1;
  std::string target;  // empty: all
  bool list = false;
};

// What is being tried, for the last words of the process.
char current_case[256] = "nothing tried yet";

void PrintCurrentCase() {
  const char start[] = "fuzz_loaders: died at ";
  (void)!write(STDERR_FILENO, start, sizeof(start) - 1);
  (void)!write(STDERR_FILENO, current_case, strlen(current_case));
  (void)!write(STDERR_FILENO, "\n", 1);
}

void OnSignal(int number) {
  PrintCurrentCase();
  signal(number, SIG_DFL);
  raise(number);
}

void WatchForDeath() {
  signal(SIGALRM, OnSignal);  // a change that makes loading endless
  signal(SIGABRT, OnSignal);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(PrintCurrentCase);
#else
  signal(SIGSEGV, OnSignal);
  signal(SIGBUS, OnSignal);
  signal(SIGFPE, OnSignal);
#endif
}

std::string ReadAll(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void WriteAll(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// One byte of an existing file.
void Put(const fs::path& path, size_t at, char byte) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
}

// The changes of one file of one model.
class FileFuzzer {
 public:
  FileFuzzer(const FuzzTarget& target, const std::string& folder,
             KernelTable& kernels)
      : target_(target),
        folder_(folder),
        file_(target.file.empty() ? fs::path(target.ModelPath(folder))
                                  : fs::path(folder) / target.file),
        original_(ReadAll(file_)),
        kernels_(kernels) {}

  // Whether every change was taken as it should be.
  bool Run(const Options& options) {
    snprintf(current_case, sizeof(current_case), "%s unchanged",
             target_.name().c_str());
    if (original_.empty() || !Probe().ran) {
      std::printf("%s: does not run unchanged: %s\n", target_.name().c_str(),
                  last_error_.c_str());
      return false;
    }
    Truncate();
    Flip(options);
    Poison(options);
    std::printf("%-60s %5d refused %5d ran %5d did not fit%s\n",
                target_.name().c_str(), refused_, ran_, unfit_,
                faults_ == 0
                    ? ""
                    : (", " + std::to_string(faults_) + " WRONG").c_str());
    std::fflush(stdout);
    return faults_ == 0;
  }

 private:
  ProbeResult Probe() {
    alarm(kSecondsPerCase);
    const ProbeResult result =
        ProbeModel(target_.ModelPath(folder_), target_.has_text(), kernels_);
    alarm(0);
    last_error_ = std::string(result.status.message());
    return result;
  }

  void Judge(const ProbeResult& result) {
    if (result.ran) {
      ++ran_;
    } else if (absl::IsResourceExhausted(result.status)) {
      ++unfit_;  // dimensions that no memory holds
    } else if (IsWellFormed(result.status, folder_) || result.loaded) {
      ++refused_;
    } else {
      Complain("no form");
    }
  }

  void Complain(const char* what) {
    ++faults_;
    std::printf("%s: %s: %s\n", current_case, what, last_error_.c_str());
  }

  void Truncate() {
    for (int i = 0; i < kTruncations; ++i) {
      const size_t size = original_.size() * i / kTruncations;
      snprintf(current_case, sizeof(current_case), "%s cut to %zu bytes",
               target_.name().c_str(), size);
      WriteAll(file_, original_.substr(0, size));
      const ProbeResult result = Probe();
      Judge(result);
      // Templates are free text: a shorter one may well be one.
      if (result.ran && !target_.free_text) Complain("loaded");
    }
    WriteAll(file_, original_);
  }

  void Flip(const Options& options) {
    std::mt19937 random(options.seed);
    for (int i = 0; i < options.flips; ++i) {
      const size_t range = i % 2 == 0 ? std::min(kHeaderBytes, original_.size())
                                      : original_.size();
      size_t at = random() % range;
      const size_t digit = original_.find_first_of("0123456789", at);
      auto byte = static_cast<char>(original_[at] ^ (1 + random() % 255));
      if (i % 4 == 0 && digit < range) {
        at = digit;
        byte = static_cast<char>('0' +
                                 (original_[at] - '0' + 1 + random() % 9) % 10);
      }
      snprintf(current_case, sizeof(current_case),
               "%s flip %d: byte %zu from 0x%02x to 0x%02x",
               target_.name().c_str(), i, at, original_[at] & 0xffu,
               byte & 0xffu);
      Put(file_, at, byte);
      Judge(Probe());
      Put(file_, at, original_[at]);
    }
  }

  void Poison(const Options& options) {
    std::mt19937 random(options.seed);
    for (int i = 0; i < kRuns; ++i) {
      const size_t at = random() % original_.size();
      snprintf(current_case, sizeof(current_case), "%s 0xff from byte %zu on",
               target_.name().c_str(), at);
      std::string damaged = original_;
      damaged.replace(at, std::min(kRunBytes, original_.size() - at),
                      std::min(kRunBytes, original_.size() - at), '\xff');
      WriteAll(file_, damaged);
      Judge(Probe());
    }
    WriteAll(file_, original_);
  }

  const FuzzTarget& target_;
  const std::string folder_;
  const fs::path file_;
  const std::string original_;
  KernelTable& kernels_;
  std::string last_error_;
  int refused_ = 0, ran_ = 0, unfit_ = 0, faults_ = 0;
};

bool Parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (flag == "--list") {
      options->list = true;
      continue;
    }
    if (value == nullptr) return false;
    if (flag == "--flips") {
      options->flips = std::atoi(value);
    } else if (flag == "--seed") {
      options->seed = static_cast<unsigned>(std::atoi(value));
    } else if (flag == "--target") {
      options->target = value;
    } else {
      return false;
    }
    ++i;
  }
  return true;
}

int Main(int argc, char** argv) {
  Options options;
  if (!Parse(argc, argv, &options)) {
    std::fprintf(stderr,
                 "fuzz_loaders [--flips N] [--seed S] [--target SUBSTRING] "
                 "[--list]\n");
    return 2;
  }
  std::string folder = fs::temp_directory_path() / "shoal_fuzzXXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return 2;
  WatchForDeath();
  const auto kernels = MakeCpuKernelTable(*ChooseCpuIsa("auto"), 1);
  int files = 0, bad = 0;
  for (const FuzzTarget& target : FuzzTargets()) {
    if (target.name().find(options.target) == std::string::npos) continue;
    ++files;
    if (options.list) {
      std::printf("%s\n", target.name().c_str());
      continue;
    }
    const std::string copy = folder + "/" + std::to_string(files);
    target.Make(copy);
    bad += FileFuzzer(target, copy, *kernels).Run(options) ? 0 : 1;
    fs::remove_all(copy);
  }
  fs::remove_all(folder);
  std::printf("%d files, %d flips each, seed %u: %d wrong\n", files,
              options.flips, options.seed, bad);
  return files > 0 && bad == 0 ? 0 : 1;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) { return shoal::Main(argc, argv); }
