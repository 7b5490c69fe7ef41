// Tokenisers built from GGUF metadata, on vocabularies of a few tokens.

#include <cstring>
#include <map>
#include <variant>
#include <vector>

#include "tests/server/text/text_fixtures.h"

namespace shoal {
namespace {

using Strings = std::vector<std::string>;
using Value = std::variant<std::string, bool, int32_t, Strings,
                           std::vector<int32_t>, std::vector<float>>;

template <typename T>
void Put(std::string& out, T number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

void Put(std::string& out, const std::string& text) {
  Put(out, uint64_t{text.size()});
  out += text;
}

void PutValue(std::string& out, const Value& value) {
  const auto put = [&out]<typename T>(const T& v, GgufType type) {
    Put(out, static_cast<uint32_t>(type));
    Put(out, v);
  };
  const auto put_list = [&out](const auto& list, GgufType type) {
    Put(out, static_cast<uint32_t>(GgufType::kArray));
    Put(out, static_cast<uint32_t>(type));
    Put(out, uint64_t{list.size()});
    for (const auto& v : list) Put(out, v);
  };
  if (auto* text = std::get_if<std::string>(&value)) {
    put(*text, GgufType::kString);
  } else if (auto* flag = std::get_if<bool>(&value)) {
    put(static_cast<uint8_t>(*flag), GgufType::kBool);
  } else if (auto* number = std::get_if<int32_t>(&value)) {
    put(*number, GgufType::kI32);
  } else if (auto* texts = std::get_if<Strings>(&value)) {
    put_list(*texts, GgufType::kString);
  } else if (auto* ints = std::get_if<std::vector<int32_t>>(&value)) {
    put_list(*ints, GgufType::kI32);
  } else if (auto* floats = std::get_if<std::vector<float>>(&value)) {
    put_list(*floats, GgufType::kF32);
  }
}

// Loads a GGUF without tensors; keys are below tokenizer.ggml.
absl::StatusOr<std::unique_ptr<ModelText>> Load(
    const std::map<std::string, Value>& values) {
  std::string bytes = "GGUF";
  Put(bytes, uint32_t{3});
  Put(bytes, uint64_t{0});
  Put(bytes, uint64_t{values.size()});
  for (const auto& [key, value] : values) {
    Put(bytes, "tokenizer.ggml." + key);
    PutValue(bytes, value);
  }
  const ModelFolder folder;
  folder.Write("model.gguf", bytes);
  auto gguf = GgufFile::Open(folder.path() + "/model.gguf");
  if (!gguf.ok()) return gguf.status();
  return ModelText::LoadGguf(**gguf);
}

// Printable ASCII and the space, one token each.
Strings Letters() {
  Strings tokens;
  for (char c = '!'; c <= '~'; ++c) tokens.push_back(std::string(1, c));
  tokens.push_back("\xC4\xA0");  // the space in GPT-2's alphabet
  return tokens;
}

TEST(GgufTokenizerTest, EveryPreTokeniserIsKnown) {
  Strings tokens = Letters();
  const int32_t eleven = std::ssize(tokens);
  tokens.push_back("11");
  const std::map<std::string, bool> joins_digits = {
      {"smollm", false},         {"gpt-2", true},
      {"llama-bpe", true},       {"qwen2", false},
      {"deepseek-v3", true},     {"deepseek-llm", true},
      {"deepseek-coder", false}, {"deepseek-r1-qwen", false}};
  for (const auto& [pre, joins] : joins_digits) {
    auto text = Load({{"model", "gpt2"},
                      {"pre", pre},
                      {"tokens", tokens},
                      {"merges", Strings{"1 1"}}});
    ASSERT_TRUE(text.ok()) << pre << text.status();
    const auto ids = (*text)->Encode("a 11", false).value();
    EXPECT_EQ(ids.back() == eleven, joins) << pre;
    EXPECT_EQ((*text)->Decode(ids, false), "a 11") << pre;
  }
  EXPECT_EQ(Load({{"model", "gpt2"}, {"pre", "new"}, {"tokens", tokens}})
                .status()
                .code(),
            absl::StatusCode::kUnimplemented);
}

TEST(GgufTokenizerTest, SentencePieceFollowsTheScores) {
  const std::map<std::string, Value> values = {
      {"model", "llama"},
      {"tokens", Strings{"<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>",
                         "\xE2\x96\x81", "a", "b", "c", "ab", "bc",
                         "\xE2\x96\x81"
                         "a"}},
      {"scores",
       std::vector<float>{0, 0, 0, 0, 0, 0, -9, -10, -11, -12, -2, -1, -3}},
      {"token_type",
       std::vector<int32_t>{2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 1}},
      {"bos_token_id", 1},
      {"eos_token_id", 2},
      {"unknown_token_id", 0}};
  const auto text = Load(values).value();
  // "bc" scores above "ab" and above the blank with "a".
  EXPECT_EQ(text->Encode("abc", true).value(),
            (std::vector<int32_t>{1, 12, 11}));
  EXPECT_EQ(text->Encode("\n\xC3\xA9", false).value(),
            (std::vector<int32_t>{6, 3, 4, 5}));
  const std::vector<int32_t> ids = {1, 12, 11, 6, 7, 3, 4, 5};
  EXPECT_EQ(text->Decode(ids, true), "abc a\n\xC3\xA9");
  EXPECT_EQ(text->TokenBytes(12), " a");
  EXPECT_TRUE(text->IsSpecial(2));
  EXPECT_EQ(text->end_token_ids(), std::vector<int32_t>{2});
  auto without = values;
  without["add_space_prefix"] = false;
  EXPECT_EQ(Load(without).value()->Encode("abc", false).value(),
            (std::vector<int32_t>{7, 11}));
}

TEST(GgufTokenizerTest, DamagedMetadataIsNamed) {
  const Strings letters = Letters();
  const std::pair<std::map<std::string, Value>, const char*> cases[] = {
      {{{"model", "gpt2"}}, "tokenizer.ggml.tokens"},
      {{{"model", "bert"}, {"tokens", letters}}, "tokenizer.ggml.model"},
      {{{"model", "llama"}, {"tokens", letters}}, "tokenizer.ggml.scores"},
      {{{"model", "gpt2"}, {"tokens", Strings{"\xFF"}}},
       "tokenizer.ggml.tokens[0]"},
      {{{"model", "gpt2"}, {"tokens", letters}, {"merges", Strings{"ab"}}},
       "tokenizer.ggml.merges[0]"},
      {{{"model", "gpt2"}, {"tokens", letters}, {"merges", Strings{"a no"}}},
       "tokenizer.ggml.merges"},
      {{{"model", "gpt2"},
        {"tokens", letters},
        {"token_type", std::vector<int32_t>{1}}},
       "tokenizer.ggml.token_type"},
      {{{"model", "gpt2"}, {"tokens", letters}, {"bos_token_id", "one"}},
       "tokenizer.ggml.bos_token_id"},
  };
  for (const auto& [values, key] : cases) {
    const absl::Status status = Load(values).status();
    EXPECT_FALSE(status.ok()) << key;
    const std::string message(status.message());
    EXPECT_NE(message.find(key), message.npos) << status;
    EXPECT_NE(message.find("model.gguf: "), message.npos) << status;
    EXPECT_EQ(message.find('\n'), message.npos) << status;
  }
}

}  // namespace
}  // namespace shoal
