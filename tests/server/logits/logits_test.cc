// Logits files of golden models, and inputs that are refused.
#include "server/logits/logits.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/loading/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/synth/safetensors_writer.h"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr int32_t kMaxTokens = 512;  // more than any golden prompt has

template <typename T>
std::vector<T> Values(const ConstTensorView& view) {
  std::vector<T> values(view.num_elements());
  std::memcpy(values.data(), view.data, view.bytes());
  return values;
}

class TempFolderTest : public testing::Test {
 protected:
  TempFolderTest() {
    std::string name = testing::TempDir() + "/logitsXXXXXX";
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~TempFolderTest() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
};

class GoldenLogitsTest
    : public TempFolderTest,
      public testing::WithParamInterface<std::tuple<const char*, int>> {};

TEST_P(GoldenLogitsTest, AreTheGoldenOnes) {
  const auto& [name, chunk] = GetParam();
  const Golden golden = LoadGolden(name);
  const LoadedModel model =
      LoadModel(GoldenPath(name), RunnableIsas().back(), Precision::kExact,
                DType::kF32, kMaxTokens);
  const int64_t vocab_size = model.decoder->config().vocab_size;
  const auto prompts =
      ReadPrompts(GoldenPath(name) + "/golden.safetensors", vocab_size);
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_EQ(prompts->size(), golden.prompts.size());

  LogitsOptions options;
  options.chunk = chunk;
  options.greedy = static_cast<int32_t>(golden.prompts[0].greedy.size());
  options.max_tokens_per_step = kMaxTokens;
  const std::string path = folder_ + "/out.safetensors";
  const absl::Status status =
      WriteLogits(*prompts, options, *model.decoder, *model.kernels, path);
  ASSERT_TRUE(status.ok()) << status;

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 2 * prompts->size());
  for (size_t i = 0; i < prompts->size(); ++i) {
    const GoldenPrompt& prompt = golden.prompts[i];
    EXPECT_EQ((*prompts)[i], prompt.input_ids);
    const ConstTensorView& view =
        (*file)->tensors().at(absl::StrCat("prompt", i, ".logits"));
    ASSERT_EQ(view.dim(0), std::ssize(prompt.input_ids));
    ASSERT_EQ(view.dim(1), vocab_size);
    const std::vector<float> logits = Values<float>(view);
    double worst = 0;
    for (size_t k = 0; k < prompt.positions.size(); ++k) {
      for (int64_t v = 0; v < vocab_size; ++v) {
        const double difference =
            std::abs(logits[prompt.positions[k] * vocab_size + v] -
                     prompt.logits[k * vocab_size + v]);
        // Not std::max: a NaN must not pass.
        if (!(difference <= worst)) worst = difference;
      }
    }
    EXPECT_LE(worst, golden.tolerance) << "prompt " << i;
    const std::vector<int64_t> greedy = Values<int64_t>(
        (*file)->tensors().at(absl::StrCat("prompt", i, ".greedy")));
    EXPECT_THAT(greedy, testing::ElementsAreArray(prompt.greedy));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, GoldenLogitsTest,
    testing::Combine(testing::Values("llama-gqa", "deepseek_v3-noaux-yarn",
                                     "deepseek_v32", "deepseek_v4"),
                     testing::Values(1, 7, kMaxTokens)),
    [](const testing::TestParamInfo<GoldenLogitsTest::ParamType>& info) {
      std::string name = absl::StrCat(std::get<0>(info.param), "_chunk_",
                                      std::get<1>(info.param));
      for (char& c : name) {
        if (!absl::ascii_isalnum(c)) c = '_';
      }
      return name;
    });

class WriteLogitsTest : public TempFolderTest {
 protected:
  WriteLogitsTest()
      : model_(LoadModel(GoldenPath("llama-gqa"), RunnableIsas().back(),
                         Precision::kFast, DType::kBF16, kMaxTokens)) {}

  absl::Status Write(const std::vector<std::vector<int32_t>>& prompts,
                     const LogitsOptions& options) {
    return WriteLogits(prompts, options, *model_.decoder, *model_.kernels,
                       path());
  }
  std::string path() const { return folder_ + "/out.safetensors"; }
  // A tensor's bytes of the last file written.
  std::vector<uint8_t> Bytes(const std::string& name) const {
    const auto file = SafetensorsFile::Open(path());
    EXPECT_TRUE(file.ok()) << file.status();
    const auto it = (*file)->tensors().find(name);
    if (it == (*file)->tensors().end()) return {};
    const auto* data = static_cast<const uint8_t*>(it->second.data);
    return {data, data + it->second.bytes()};
  }

  LoadedModel model_;
};

// More prompts than run at once, of all lengths.
TEST_F(WriteLogitsTest, DoNotDependOnThePromptsBeside) {
  std::vector<std::vector<int32_t>> prompts(70);
  for (size_t i = 0; i < prompts.size(); ++i) {
    for (size_t k = 0; k < 1 + i % 33; ++k) {
      prompts[i].push_back(static_cast<int32_t>((31 * i + k * k) % 512));
    }
  }
  LogitsOptions options;
  options.max_tokens_per_step = 100;  // so that prompts are cut at odd places
  options.greedy = 3;
  ASSERT_TRUE(Write(prompts, options).ok());
  for (const size_t i : {0, 32, 69}) {
    const std::string name = absl::StrCat("prompt", i, ".");
    const auto logits = Bytes(name + "logits");
    const auto greedy = Bytes(name + "greedy");
    const std::string all = folder_ + "/all.safetensors";
    std::filesystem::rename(path(), all);
    ASSERT_TRUE(Write({prompts[i]}, options).ok());
    EXPECT_EQ(Bytes("prompt0.logits"), logits);
    EXPECT_EQ(Bytes("prompt0.greedy"), greedy);
    std::filesystem::rename(all, path());
  }
}

TEST_F(WriteLogitsTest, WithoutGreedyHaveNoTokens) {
  LogitsOptions options;
  options.max_tokens_per_step = kMaxTokens;
  ASSERT_TRUE(Write({{1, 2, 3}}, options).ok());
  EXPECT_EQ(Bytes("prompt0.logits").size(),
            3 * model_.decoder->config().vocab_size * sizeof(float));
  EXPECT_TRUE(Bytes("prompt0.greedy").empty());
}

TEST_F(WriteLogitsTest, RefusesWhatTheContextDoesNotHold) {
  const int64_t context = model_.decoder->config().max_position_embeddings;
  LogitsOptions options;
  options.max_tokens_per_step = kMaxTokens;
  options.greedy = static_cast<int32_t>(context);
  const absl::Status status = Write({{1}}, options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("prompt0"));
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(WriteLogitsTest, RefusesAFolderThatIsNotThere) {
  LogitsOptions options;
  options.max_tokens_per_step = kMaxTokens;
  const absl::Status status =
      WriteLogits({{1}}, options, *model_.decoder, *model_.kernels,
                  folder_ + "/none/out.safetensors");
  EXPECT_THAT(status.message(), HasSubstr("none/out.safetensors: cannot"));
}

class ReadPromptsTest : public TempFolderTest {
 protected:
  // Writes tensors of those names with all values equal to `value`.
  std::string Write(const std::vector<std::string>& names, DType dtype,
                    std::vector<int64_t> shape, int64_t value) const {
    std::vector<PlannedTensor> tensors;
    std::string data;
    for (const std::string& name : names) {
      tensors.push_back({name, dtype, shape, NormalFill{}});
      for (int64_t i = 0; i < tensors.back().num_elements(); ++i) {
        data.append(reinterpret_cast<const char*>(&value),
                    DTypeBytes(dtype, 1));
      }
    }
    const std::string path = folder_ + "/in.safetensors";
    std::ofstream(path, std::ios::binary) << SafetensorsHeader(tensors) << data;
    return path;
  }
  // The message of the refusal, which is one line.
  static std::string Refusal(const std::string& path) {
    const absl::Status status = ReadPrompts(path, 512).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.message(), AllOf(HasSubstr(path), Not(HasSubstr("\n"))));
    return std::string(status.message());
  }
};

TEST_F(ReadPromptsTest, ReadsThemInOrderBesideOtherTensors) {
  const auto prompts = ReadPrompts(
      Write({"prompt1.input_ids", "prompt0.input_ids", "prompt0.positions"},
            DType::kI64, {2}, 511),
      512);
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  EXPECT_THAT(*prompts,
              ElementsAre(ElementsAre(511, 511), ElementsAre(511, 511)));
}

TEST_F(ReadPromptsTest, RefusesAMissingPrompt) {
  EXPECT_THAT(Refusal(Write({"input_ids"}, DType::kI64, {2}, 1)),
              HasSubstr("\"prompt0.input_ids\""));
  EXPECT_THAT(Refusal(Write({"prompt0.input_ids", "prompt2.input_ids"},
                            DType::kI64, {2}, 1)),
              HasSubstr("\"prompt1.input_ids\""));
}

TEST_F(ReadPromptsTest, RefusesOtherTypesAndShapes) {
  EXPECT_THAT(Refusal(Write({"prompt0.input_ids"}, DType::kI32, {2}, 1)),
              HasSubstr("expected I64, got I32"));
  EXPECT_THAT(Refusal(Write({"prompt0.input_ids"}, DType::kI64, {1, 2}, 1)),
              HasSubstr("[1, 2]"));
  EXPECT_THAT(Refusal(Write({"prompt0.input_ids"}, DType::kI64, {0}, 1)),
              HasSubstr("[0]"));
}

TEST_F(ReadPromptsTest, RefusesIdsOutsideTheVocabulary) {
  for (const int64_t id : {int64_t{-1}, int64_t{512}, int64_t{1} << 32}) {
    EXPECT_THAT(Refusal(Write({"prompt0.input_ids"}, DType::kI64, {2}, id)),
                AllOf(HasSubstr("0 to 511"), HasSubstr(absl::StrCat(id))));
  }
}

TEST_F(ReadPromptsTest, RefusesDamagedAndMissingFiles) {
  const std::string path = Write({"prompt0.input_ids"}, DType::kI64, {2}, 1);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  Refusal(path);
  std::filesystem::resize_file(path, 5);
  Refusal(path);
  std::filesystem::remove(path);
  Refusal(path);
}

}  // namespace
}  // namespace shoal
