// From tokens to typed text: which parser a prompt asks for, stop strings
// around reasoning and calls, and special tokens that are markers.

#include "server/text/sequence_text.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using Kind = CompletionDelta::Kind;
using Start = CompletionParserOptions::Start;

// A byte is a token; above them stand the markers, which are special.
class ByteText : public ModelText {
 public:
  ByteText() {
    for (int i = 0; i < 256; ++i) tokens_.emplace_back(1, static_cast<char>(i));
    tokens_.insert(tokens_.end(), {"<think>", "</think>", "<|end|>"});
    syntax_.think_tags = true;
    syntax_.tool_blocks = true;
    syntax_.tokens = {256, 257};
  }
  CompletionSyntax& syntax() { return syntax_; }

  int32_t vocab_size() const override { return std::ssize(tokens_); }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              bool) const override {
    std::vector<int32_t> ids;
    for (unsigned char c : text) ids.push_back(c);
    return ids;
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
  bool IsSpecial(int32_t token) const override { return token >= 256; }
  std::optional<int32_t> TokenId(std::string_view) const override {
    return std::nullopt;
  }
  const std::vector<int32_t>& end_token_ids() const override { return ends_; }
  const CompletionSyntax& completion_syntax() const override { return syntax_; }

 private:
  std::vector<std::string> tokens_;
  std::vector<int32_t> ends_;
  CompletionSyntax syntax_;
};

struct Outcome {
  std::string text;  // "R(...)", "C(...)" and "T(name: ...)" in order
  std::string stop;
  bool operator==(const Outcome&) const = default;
};
void PrintTo(const Outcome& outcome, std::ostream* os) {
  *os << outcome.text << " stop " << outcome.stop;
}

// Runs tokens one by one until one matches; special ones are ids from 256.
Outcome ReadAll(const ByteText& text, const SequenceTextOptions& options,
                const std::vector<int32_t>& tokens) {
  SequenceText sequence(text, options);
  std::string out;
  Kind kind = Kind::kContent;
  const auto take = [&] {
    for (const CompletionDelta& delta : sequence.Take()) {
      const bool begins =
          out.empty() || delta.kind != kind || !delta.tool_name.empty();
      if (begins && !out.empty()) out += ")";
      if (begins && delta.kind == Kind::kToolCall) {
        absl::StrAppend(&out, "T(", delta.tool_name, ": ");
      } else if (begins) {
        out += delta.kind == Kind::kContent ? "C(" : "R(";
      }
      kind = delta.kind;
      out += delta.text;
    }
  };
  bool matched = false;
  for (int32_t token : tokens) {
    matched = sequence.Push(token);
    take();
    if (matched) break;
  }
  if (!matched) sequence.Finish();
  take();
  return {out.empty() ? "" : out + ")", sequence.matched_stop()};
}

std::vector<int32_t> Bytes(const ByteText& text, const std::string& said) {
  return text.Encode(said, false).value();
}

SequenceTextOptions Parsed(Start start, std::vector<std::string> stop = {}) {
  SequenceTextOptions options;
  options.stop = std::move(stop);
  options.parser.emplace();
  options.parser->start = start;
  options.parser->tools = true;
  options.parser->new_call_id = [] { return "id"; };
  return options;
}

TEST(ChooseParserTest, ThePromptsEndDecides) {
  ByteText text;
  const auto start = [&](const std::string& prompt) {
    return ChooseParser(text, Bytes(text, prompt), true).value().start;
  };
  EXPECT_EQ(start("hi<think>"), Start::kReasoning);
  EXPECT_EQ(start("hi<think>\n"), Start::kReasoning);
  EXPECT_EQ(start("hi</think>\n\n"), Start::kContent);
  EXPECT_EQ(start("hi"), Start::kEither);
  EXPECT_EQ(ChooseParser(text, std::vector<int32_t>{5, 256}, false)->start,
            Start::kReasoning);
  // Nothing to look for.
  EXPECT_FALSE(ChooseParser(text, Bytes(text, "</think>"), false).has_value());
  EXPECT_FALSE(ChooseParser(text, Bytes(text, "hi"), false)->tools);
  text.syntax().think_tags = false;
  EXPECT_EQ(start("hi<think>"), Start::kContent);
  EXPECT_FALSE(ChooseParser(text, Bytes(text, "<think>"), false).has_value());
  text.syntax().tool_blocks = false;
  EXPECT_FALSE(ChooseParser(text, Bytes(text, "hi"), true).has_value());
}

TEST(SequenceTextTest, WithoutAParserAllIsContent) {
  const ByteText text;
  SequenceTextOptions options;
  options.stop = {"END"};
  EXPECT_EQ(ReadAll(text, options, Bytes(text, "<think>a</think>b")),
            (Outcome{"C(<think>a</think>b)", ""}));
  EXPECT_EQ(ReadAll(text, options, Bytes(text, "aEND b")),
            (Outcome{"C(a)", "END"}));
  EXPECT_EQ(ReadAll(text, options, {'a', 256, 258}), (Outcome{"C(a)", ""}));
  options.skip_special_tokens = false;
  EXPECT_EQ(ReadAll(text, options, {'a', 256}), (Outcome{"C(a<think>)", ""}));
}

TEST(SequenceTextTest, SpecialMarkersAreParsedOthersSkipped) {
  const ByteText text;
  EXPECT_EQ(ReadAll(text, Parsed(Start::kEither), {256, 'a', 258, 257, 'b'}),
            (Outcome{"R(a)C(b)", ""}));
}

TEST(SequenceTextTest, StopStringsAreForContentOnly) {
  const ByteText text;
  const std::string call =
      "<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter "
      "name=\"a\" string=\"true\">END</｜DSML｜parameter></｜DSML｜invoke>"
      "</｜DSML｜tool_calls>";
  EXPECT_EQ(ReadAll(text, Parsed(Start::kReasoning, {"END"}),
                    Bytes(text, "no END</think>E" + call + "N ENDE")),
            (Outcome{"R(no END)C(E)T(f: {\"a\": \"END\"})C(N )", "END"}));
  // A stop string that a longer one could have replaced, but for the call.
  EXPECT_EQ(ReadAll(text, Parsed(Start::kContent, {"ab", "abcd"}),
                    Bytes(text, "xab" + call)),
            (Outcome{"C(x)", "ab"}));
  EXPECT_EQ(ReadAll(text, Parsed(Start::kContent, {"ab", "abcd"}),
                    Bytes(text, "xabc")),
            (Outcome{"C(x)", "ab"}));
}

TEST(SequenceTextTest, WhatIsHeldComesOutAtTheEnd) {
  const ByteText text;
  EXPECT_EQ(ReadAll(text, Parsed(Start::kReasoning, {"END"}),
                    Bytes(text, "a</think>b\n\nEN\xE2\x82")),
            (Outcome{"R(a)C(b\n\nEN\xEF\xBF\xBD)", ""}));
}

}  // namespace
}  // namespace shoal
