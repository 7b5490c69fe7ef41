// What the tests of server/text share: the golden files, the models that are
// downloaded once into a cache folder, and small folders to load.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/loading/gguf.h"
#include "server/text/model_text.h"

namespace shoal {

inline std::string GoldenPath(const std::string& name) {
  return std::string(SHOAL_GOLDEN_DIR) + "/tokenizer/" + name;
}

// ${SHOAL_CACHE:-$HOME/.cache/shoal}/models/NAME.
inline std::string CachePath(const std::string& name) {
  const char* cache = std::getenv("SHOAL_CACHE");
  const char* home = std::getenv("HOME");
  const std::string folder =
      cache != nullptr
          ? cache
          : std::string(home != nullptr ? home : "") + "/.cache/shoal";
  return folder + "/models/" + name;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline nlohmann::json ReadJson(const std::string& path) {
  return nlohmann::json::parse(ReadFile(path));
}

// A folder of one test, removed at its end. It starts as a copy of the small
// golden model's tokenizer.
class ModelFolder {
 public:
  ModelFolder() {
    std::string name = ::testing::TempDir() + "/textXXXXXX";
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
      Write(file, ReadFile(GoldenPath("small/") + file));
    }
  }
  ~ModelFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& contents) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << contents;
  }
  absl::StatusOr<std::unique_ptr<ModelText>> Load() const {
    return ModelText::LoadFolder(path_);
  }

 private:
  std::string path_;
};

}  // namespace shoal
