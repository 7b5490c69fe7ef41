// The tokenisers against token ids and texts of the tokenizers library.

#include <vector>

#include "server/text/incremental_detokenizer.h"
#include "tests/server/text/text_fixtures.h"

namespace shoal {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

void CheckGolden(const ModelText& text, const nlohmann::json& golden) {
  EXPECT_EQ(text.vocab_size(), golden["vocab_size"].get<int32_t>());
  for (const nlohmann::json& item : golden["cases"]) {
    const std::string input = item["text"];
    SCOPED_TRACE(item["text"].dump());
    const std::vector<int32_t> ids = item["ids"];
    auto encoded = text.Encode(input, /*add_special_tokens=*/false);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    EXPECT_EQ(*encoded, ids);
    EXPECT_EQ(text.Decode(ids, false), item["decoded"].get<std::string>());
    EXPECT_EQ(text.Decode(ids, true),
              item["decoded_skip_special"].get<std::string>());
  }
  // What the library decodes a prefix to, less the U+FFFD at its end, is what
  // may be sent by then.
  for (const nlohmann::json& item : golden["streaming"]) {
    const std::vector<int32_t> ids = item["ids"];
    IncrementalDetokenizer detokenizer(text, false);
    std::string sent;
    for (size_t i = 0; i < ids.size(); ++i) {
      sent += detokenizer.Push(ids[i]);
      std::string prefix = item["prefix_decode_with_replacement"][i];
      if (prefix.ends_with(kReplacement)) prefix.resize(prefix.size() - 3);
      EXPECT_EQ(sent, prefix);
    }
    EXPECT_EQ(sent + detokenizer.Finish(), item["text"].get<std::string>());
  }
  for (const nlohmann::json& item : golden["invalid_utf8"]) {
    std::string bytes;
    const std::string hex = item["hex"];
    for (size_t i = 0; i < hex.size(); i += 2) {
      bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), 0, 16)));
    }
    EXPECT_EQ(text.Encode(bytes, false).status().code(),
              absl::StatusCode::kInvalidArgument)
        << hex;
    const std::string replaced = item["replaced_text"];
    auto encoded = text.Encode(replaced, false);
    ASSERT_TRUE(encoded.ok());
    EXPECT_EQ(*encoded, item["ids_of_replaced_text"].get<std::vector<int>>());
  }
}

TEST(GoldenTokenizerTest, Smollm2FromGguf) {
  auto gguf = GgufFile::Open(CachePath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  auto text = ModelText::LoadGguf(**gguf);
  ASSERT_TRUE(text.ok()) << text.status();
  CheckGolden(**text, ReadJson(GoldenPath("smollm2.json")));
  EXPECT_EQ((*text)->end_token_ids(), (std::vector<int32_t>{2, 0}));
}

TEST(GoldenTokenizerTest, DeepseekFromFolder) {
  auto text = ModelText::LoadFolder(CachePath("deepseek-v4-tokenizer"));
  ASSERT_TRUE(text.ok()) << text.status();
  CheckGolden(**text, ReadJson(GoldenPath("deepseek.json")));
  EXPECT_EQ((*text)->end_token_ids(), std::vector<int32_t>{1});
}

// Prompts of the built-in format have the tokens of their text as a whole,
// where users typed no control tokens.
TEST(GoldenTokenizerTest, DeepseekV4Chats) {
  auto text =
      ModelText::LoadFolder(CachePath("deepseek-v4-tokenizer"), "deepseek_v4");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_TRUE((*text)->completion_syntax().think_tags);
  EXPECT_EQ((*text)->completion_syntax().tokens.size(), 8u);
  const std::string path = std::string(SHOAL_GOLDEN_DIR) + "/chat/chat.json";
  for (const auto& golden : nlohmann::ordered_json::parse(ReadFile(path))) {
    if (golden["format"] != "v4") continue;
    ChatTemplateInput input;
    input.messages_json = golden["messages"].dump();
    nlohmann::json kwargs = {{"thinking", golden["thinking"]}};
    if (golden.contains("reasoning_effort")) {
      kwargs["reasoning_effort"] = golden["reasoning_effort"];
    }
    input.template_kwargs_json = kwargs.dump();
    const std::string prompt = golden["prompt"];
    const auto ids = (*text)->EncodeChat(input).value();
    EXPECT_EQ((*text)->Decode(ids, false), prompt);
    if (golden["name"] == "quotes") {
      EXPECT_NE(ids, (*text)->Encode(prompt, false).value());
    } else {
      EXPECT_EQ(ids, (*text)->Encode(prompt, false).value()) << prompt;
    }
  }
}

}  // namespace
}  // namespace shoal
