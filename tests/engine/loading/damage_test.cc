// Damaged and hostile files: each loads or fails with one line, never more.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "engine/loading/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant/dequantize.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr int kFlips = 2000;

std::string ReadAll(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
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

void Replace(std::string* text, const std::string& from,
             const std::string& to) {
  const size_t at = text->find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text->replace(at, from.size(), to);
}

// A copy of a golden model in a folder of its own, one file of which a test
// damages.
class DamageTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) /
              ("shoal_damage_" + std::to_string(getpid()) + info->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy_file(fs::path(SHOAL_GOLDEN_DIR) / "qwen2" / name,
                    folder_ / name);
    }
    gguf_ = ReadAll(fs::path(SHOAL_GOLDEN_DIR) / "gguf" / "qwen3-bf16.gguf");
    WriteAll(folder_ / "model.gguf", gguf_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Loads `model`, which either works, its weights readable to the last byte,
  // or fails in the form FILE: FIELD: expected X, got Y.
  absl::Status Load(const fs::path& model) {
    auto checkpoint = LoadCheckpoint(model.string());
    if (checkpoint.ok()) {
      for (const auto& [name, weight] : (*checkpoint)->weights()) {
        const auto* data = static_cast<const uint8_t*>(weight.data.data);
        volatile uint8_t last = data[weight.data.bytes() - 1];
        (void)last;
      }
      return absl::OkStatus();
    }
    const std::string message(checkpoint.status().message());
    EXPECT_THAT(message,
                AllOf(HasSubstr(folder_.string()), HasSubstr(": expected "),
                      HasSubstr(", got "), Not(HasSubstr("\n"))));
    return checkpoint.status();
  }

  // Truncations at every sixteenth and seeded flips, half of them in the first
  // `header` bytes, of `file`, a part of `model`.
  void Damage(const fs::path& file, const fs::path& model, size_t header) {
    const std::string original = ReadAll(file);
    for (size_t i = 0; i < 16; ++i) {
      SCOPED_TRACE(i);
      WriteAll(file, original.substr(0, original.size() * i / 16));
      EXPECT_FALSE(Load(model).ok());
    }
    WriteAll(file, original);
    std::mt19937 random(7);
    for (int i = 0; i < kFlips; ++i) {
      SCOPED_TRACE(i);
      const size_t range =
          i % 2 == 0 ? std::min(header, original.size()) : original.size();
      const size_t at = random() % range;
      const auto flip = static_cast<char>(1 + random() % 255);
      Put(file, at, static_cast<char>(original[at] ^ flip));
      (void)Load(model);
      Put(file, at, original[at]);
    }
    EXPECT_TRUE(Load(model).ok());
  }

  void SetHeader(const std::string& json) {
    std::string bytes(8, '\0');
    for (int i = 0; i < 8; ++i) {
      bytes[i] = static_cast<char>(uint64_t{json.size()} >> (8 * i));
    }
    WriteAll(folder_ / "model.safetensors", bytes + json);
  }

  fs::path folder_;
  std::string gguf_;
};

TEST_F(DamageTest, Gguf) {
  Damage(folder_ / "model.gguf", folder_ / "model.gguf", 4096);
}

TEST_F(DamageTest, Safetensors) {
  Damage(folder_ / "model.safetensors", folder_, 4096);
}

TEST_F(DamageTest, Config) { Damage(folder_ / "config.json", folder_, 4096); }

// Scaled FP8 and packed FP4 experts, tables of ids, optional tensors.
TEST_F(DamageTest, DeepseekFolders) {
  for (const char* name : {"deepseek_v3-fp8", "deepseek_v4-fp8-fp4experts"}) {
    SCOPED_TRACE(name);
    for (const char* file : {"config.json", "model.safetensors"}) {
      fs::copy_file(fs::path(SHOAL_GOLDEN_DIR) / name / file, folder_ / file,
                    fs::copy_options::overwrite_existing);
    }
    Damage(folder_ / "config.json", folder_, 4096);
    Damage(folder_ / "model.safetensors", folder_, 65536);
  }
}

TEST_F(DamageTest, DeepseekGguf) {
  WriteAll(folder_ / "model.gguf", ReadAll(fs::path(SHOAL_GOLDEN_DIR) / "gguf" /
                                           "deepseek_v3-mla.gguf"));
  Damage(folder_ / "model.gguf", folder_ / "model.gguf", 16384);
}

TEST_F(DamageTest, UnknownArchitecture) {
  Replace(&gguf_, "qwen3", "qwen9");
  WriteAll(folder_ / "model.gguf", gguf_);
  EXPECT_EQ(Load(folder_ / "model.gguf").code(),
            absl::StatusCode::kUnimplemented);
  std::string config = ReadAll(folder_ / "config.json");
  Replace(&config, "\"qwen2\"", "\"qwen9\"");
  WriteAll(folder_ / "config.json", config);
  EXPECT_EQ(Load(folder_).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(DamageTest, UnknownTensorType) {
  // name, u32 rank, u64 ne[2], u32 type
  const std::string name = "token_embd.weight";
  const size_t at = gguf_.find(name);
  ASSERT_NE(at, std::string::npos);
  gguf_[at + name.size() + 4 + 16] = 99;
  WriteAll(folder_ / "model.gguf", gguf_);
  EXPECT_EQ(Load(folder_ / "model.gguf").code(),
            absl::StatusCode::kUnimplemented);
  SetHeader(R"({"a":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}})");
  EXPECT_EQ(Load(folder_).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(DamageTest, SizesThatOverflow) {
  const std::string name = "token_embd.weight";
  const size_t at = gguf_.find(name);
  ASSERT_NE(at, std::string::npos);
  for (size_t i = 0; i < 16; ++i) gguf_[at + name.size() + 4 + i] = '\x7f';
  WriteAll(folder_ / "model.gguf", gguf_);
  EXPECT_FALSE(Load(folder_ / "model.gguf").ok());
  SetHeader(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],)"
            R"("data_offsets":[0,0]}})");
  EXPECT_FALSE(Load(folder_).ok());
  SetHeader(R"({"a":{"dtype":"U8","shape":[1],)"
            R"("data_offsets":[18446744073709551615,0]}})");
  EXPECT_FALSE(Load(folder_).ok());
  WriteAll(folder_ / "model.safetensors", std::string(16, '\xff'));
  EXPECT_FALSE(Load(folder_).ok());
}

TEST_F(DamageTest, DeepJson) {
  SetHeader(std::string(1 << 20, '['));
  EXPECT_FALSE(Load(folder_).ok());
  for (const char* open : {"[", "{\"a\":"}) {
    std::string bomb = "{\"x\":";
    for (int i = 0; i < 200'000; ++i) bomb += open;
    WriteAll(folder_ / "config.json", bomb);
    EXPECT_EQ(Load(folder_).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(DamageTest, ListsAtMostTwentyTensors) {
  SetHeader("{}");
  const absl::Status status = Load(folder_);
  const std::string message(status.message());
  EXPECT_THAT(message,
              AllOf(HasSubstr("model.embed_tokens.weight"), HasSubstr("more")));
  EXPECT_LT(message.size(), 4096u);
}

}  // namespace
}  // namespace shoal
