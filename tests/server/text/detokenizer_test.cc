#include <optional>
#include <random>
#include <vector>

#include "server/text/incremental_detokenizer.h"
#include "tests/server/text/text_fixtures.h"

namespace shoal {
namespace {

// Tokens are chosen strings of bytes.
class ListedText : public ModelText {
 public:
  explicit ListedText(std::vector<std::string> tokens)
      : tokens_(std::move(tokens)) {}

  bool strips_leading_space = false;
  int32_t special = -1;

  int32_t vocab_size() const override { return std::ssize(tokens_); }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view,
                                              bool) const override {
    return absl::UnimplementedError("");
  }
  bool has_chat_template() const override { return false; }
  absl::StatusOr<std::string> RenderChat(
      const ChatTemplateInput&) const override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const ChatTemplateInput&) const override {
    return absl::UnimplementedError("");
  }
  std::string_view TokenBytes(int32_t token) const override {
    return tokens_[token];
  }
  bool IsSpecial(int32_t token) const override { return token == special; }
  std::optional<int32_t> TokenId(std::string_view) const override {
    return std::nullopt;
  }
  const std::vector<int32_t>& end_token_ids() const override { return ends_; }
  bool StripsLeadingSpace() const override { return strips_leading_space; }
  std::vector<int32_t> All() const {
    std::vector<int32_t> ids(tokens_.size());
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    return ids;
  }

 private:
  std::vector<std::string> tokens_;
  std::vector<int32_t> ends_;
};

std::string DecodeParts(const std::vector<std::string>& parts) {
  const ListedText text(parts);
  return text.Decode(text.All(), false);
}

TEST(IncrementalDetokenizerTest, HoldsBackUnfinishedCharacters) {
  const ListedText text({"a\xF0\x9F", "\x98",
                         "\x80"
                         "b\xE4"});
  IncrementalDetokenizer detokenizer(text, false);
  EXPECT_EQ(detokenizer.Push(0), "a");
  EXPECT_EQ(detokenizer.Push(1), "");
  EXPECT_EQ(detokenizer.Push(2),
            "\xF0\x9F\x98\x80"
            "b");
  EXPECT_EQ(detokenizer.Finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(IncrementalDetokenizerTest, BrokenBytesBecomeOneMarkAMaximalSubpart) {
  const std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(DecodeParts({"\x80"}), mark);
  EXPECT_EQ(DecodeParts({"\xC0\xAF"}), mark + mark);
  EXPECT_EQ(DecodeParts({"\xE2\x82", "x"}), mark + "x");
  EXPECT_EQ(DecodeParts({"\xF0\x9F", "\xF0\x9F\x98"}), mark + mark);
  EXPECT_EQ(DecodeParts({"\xED\xA0\x80"}), mark + mark + mark);
  EXPECT_EQ(DecodeParts({"\xF4\x90\x80\x80"}), mark + mark + mark + mark);
}

TEST(IncrementalDetokenizerTest, LeavesOutSpecialTokensAndTheFirstSpace) {
  ListedText text({"<s>", " hello", " world"});
  text.special = 0;
  text.strips_leading_space = true;
  EXPECT_EQ(text.Decode(text.All(), true), "hello world");
  EXPECT_EQ(text.Decode(text.All(), false), "<s> hello world");
}

TEST(IncrementalDetokenizerTest, SplitsDoNotMatter) {
  const std::vector<std::string> pieces = {
      "a",    " ",    "\xE4\xB8\xAD",     "\xF0\x9F\x91\xA9", "\xE2\x80\x8D",
      "\x80", "\xC3", "\xF0\x9F\x98\x80", "\xE0\x80",         "\xC3\xA9"};
  std::mt19937 random(3);
  for (int round = 0; round < 5000; ++round) {
    std::string bytes;
    for (int n = random() % 12; n > 0; --n) {
      bytes += pieces[random() % pieces.size()];
    }
    std::vector<std::string> parts(1);
    for (char byte : bytes) {
      if (random() % 2 == 0) parts.emplace_back();
      parts.back() += byte;
    }
    const std::string whole = DecodeParts({bytes});
    ASSERT_EQ(DecodeParts(parts), whole);
    ASSERT_TRUE(nlohmann::json::accept(nlohmann::json(whole).dump()));
  }
}

}  // namespace
}  // namespace shoal
