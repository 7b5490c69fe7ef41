// Loading: what the files say and how damaged ones are refused.

#include <random>
#include <vector>

#include "tests/server/text/text_fixtures.h"

namespace shoal {
namespace {

TEST(ModelTextTest, EncodesAndDecodesAFoldersTokenizer) {
  const ModelFolder folder;
  const auto text = folder.Load().value();
  EXPECT_EQ(text->vocab_size(), 2048);
  const auto plain = text->Encode("In the beginning", false).value();
  auto with_bos = text->Encode("In the beginning", true).value();
  ASSERT_EQ(with_bos.front(), 0);
  EXPECT_EQ(text->Decode(with_bos, true), "In the beginning");
  with_bos.erase(with_bos.begin());
  EXPECT_EQ(with_bos, plain);
  // A text that brings its own bos gets no second one.
  EXPECT_EQ(text->Encode("<|begin|>a", true).value(),
            text->Encode("<|begin|>a", false).value());
  EXPECT_EQ(text->end_token_ids(), std::vector<int32_t>{1});
  EXPECT_TRUE(text->IsSpecial(1));
  EXPECT_EQ(text->TokenBytes(1), "<|end|>");
  EXPECT_EQ(text->TokenId("<|end|>"), 1);
  EXPECT_EQ(text->TokenId("no such token"), std::nullopt);
  EXPECT_EQ(text->TokenBytes(-1), "");
  EXPECT_EQ(text->TokenBytes(2048), "");
  EXPECT_FALSE(text->IsSpecial(2048));
}

TEST(ModelTextTest, GenerationConfigNamesEndTokens) {
  const ModelFolder folder;
  folder.Write("generation_config.json", R"({"eos_token_id":[7,9999,1]})");
  EXPECT_EQ(folder.Load().value()->end_token_ids(),
            (std::vector<int32_t>{7, 1}));
}

TEST(ModelTextTest, MissingAndDamagedFilesAreNamedInOneLine) {
  EXPECT_EQ(ModelText::LoadFolder("/nonexistent").status().code(),
            absl::StatusCode::kNotFound);
  const std::string whole = ReadFile(GoldenPath("small/tokenizer.json"));
  for (const auto& [contents, code] :
       std::vector<std::pair<std::string, absl::StatusCode>>{
           {"", absl::StatusCode::kInvalidArgument},
           {"{\n\n]", absl::StatusCode::kInvalidArgument},
           {whole.substr(0, whole.size() / 2),
            absl::StatusCode::kInvalidArgument},
           {R"({"model":{"type":"BPE","vocab":{"a":4000000000},"merges":[]}})",
            absl::StatusCode::kInvalidArgument},
           {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]},)"
            R"("decoder":{"type":"CTC","pad_token":"p",)"
            R"("word_delimiter_token":"|","cleanup":true}})",
            absl::StatusCode::kUnimplemented},
       }) {
    const ModelFolder folder;
    folder.Write("tokenizer.json", contents);
    const absl::Status status = folder.Load().status();
    const std::string message(status.message());
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(message.find("/tokenizer.json: "), message.npos) << status;
    EXPECT_EQ(message.find('\n'), message.npos) << status;
  }
  const ModelFolder folder;
  folder.Write("tokenizer_config.json", "{");
  const std::string message(folder.Load().status().message());
  EXPECT_NE(message.find("/tokenizer_config.json"), message.npos) << message;
}

// A flipped bit either does not matter to loading or is refused; what loads
// encodes and decodes without harm.
TEST(ModelTextTest, FlippedBitsDoNoHarm) {
  const ModelFolder folder;
  const std::string whole = ReadFile(GoldenPath("small/tokenizer.json"));
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    std::string damaged = whole;
    // Half of the flips hit the part before the vocabulary.
    const size_t range = round % 2 == 0 ? whole.size() : 3000;
    for (int n = 1 + random() % 3; n > 0; --n) {
      damaged[random() % range] ^= static_cast<char>(1 << random() % 8);
    }
    folder.Write("tokenizer.json", damaged);
    auto text = folder.Load();
    if (!text.ok()) {
      const std::string message(text.status().message());
      EXPECT_NE(message.find("/tokenizer.json: "), message.npos) << message;
      EXPECT_EQ(message.find('\n'), message.npos) << message;
      continue;
    }
    const auto ids = (*text)->Encode("In 1984 \xE4\xB8\xAD <|end|>", true);
    if (ids.ok()) (*text)->Decode(*ids, false);
  }
}

}  // namespace
}  // namespace shoal
