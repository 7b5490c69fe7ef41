// What the parser makes of completions, whole and cut in every way.

#include "server/text/completion_parser.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/text/chat_tokens.h"
#include "tests/server/text/text_fixtures.h"

namespace shoal {
namespace {

using Kind = CompletionDelta::Kind;
using Start = CompletionParserOptions::Start;

// One line a run of deltas of one kind: "R:", "C:" or "T0 call_0 name:".
using Parsed = std::vector<std::string>;

class Reader {
 public:
  Reader(Start start, bool tools)
      : parser_({.start = start, .tools = tools, .new_call_id = [this] {
                   return absl::StrCat("call_", num_ids_++);
                 }}) {}

  void Push(std::string_view text) { Add(parser_.Push(text)); }
  Parsed Finish() {
    Add(parser_.Finish());
    return parsed_;
  }
  const Parsed& parsed() const { return parsed_; }

 private:
  void Add(const std::vector<CompletionDelta>& deltas) {
    for (const CompletionDelta& delta : deltas) {
      std::string head = delta.kind == Kind::kContent ? "C:" : "R:";
      bool begins = parsed_.empty() || !parsed_.back().starts_with(head);
      if (delta.kind == Kind::kToolCall) {
        begins = !delta.tool_name.empty();
        head = absl::StrCat("T", delta.tool_call_index, " ", delta.tool_call_id,
                            " ", delta.tool_name, ":");
        if (!begins) {
          EXPECT_EQ(delta.tool_call_id, "");
          EXPECT_THAT(parsed_.back(), testing::StartsWith(absl::StrCat(
                                          "T", delta.tool_call_index, " ")));
        }
      } else {
        EXPECT_FALSE(delta.text.empty());
      }
      if (begins) parsed_.push_back(head);
      parsed_.back() += delta.text;
    }
  }

  int num_ids_ = 0;
  Parsed parsed_;
  CompletionParser parser_;
};

Parsed Parse(Start start, bool tools, const std::string& text) {
  Reader reader(start, tools);
  reader.Push(text);
  return reader.Finish();
}

// Parses `text` whole and cut at each place, at all places and at random ones:
// always the same.
Parsed ParseAnyhow(Start start, bool tools, const std::string& text) {
  const Parsed whole = Parse(start, tools, text);
  for (size_t at = 0; at <= text.size(); ++at) {
    Reader reader(start, tools);
    reader.Push(text.substr(0, at));
    reader.Push(text.substr(at));
    EXPECT_EQ(reader.Finish(), whole) << "cut at " << at << ": " << text;
  }
  Reader bytes(start, tools);
  for (char c : text) bytes.Push({&c, 1});
  EXPECT_EQ(bytes.Finish(), whole) << "single bytes: " << text;
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    Reader reader(start, tools);
    for (size_t at = 0; at < text.size();) {
      const size_t size = 1 + random() % 20;
      reader.Push(std::string_view(text).substr(at, size));
      at += size;
    }
    EXPECT_EQ(reader.Finish(), whole) << "round " << round << ": " << text;
  }
  return whole;
}

struct Case {
  const char* text;
  Parsed parsed;
};

TEST(CompletionParserTest, ReasoningStartsInThePromptOrTheText) {
  const Case inside[] = {
      {"why</think>so", {"R:why", "C:so"}},
      {"\nwhy\n\n</think>\n\nso\n", {"R:why", "C:so\n"}},
      {"</think>so", {"C:so"}},
      {"a < b </thin> <</think>c</think>d",
       {"R:a < b </thin> <", "C:c</think>d"}},
      {"never ends </thi", {"R:never ends </thi"}},
      {"<think>quoted</think>x", {"R:<think>quoted", "C:x"}},
      {"", {}},
  };
  for (const auto& [text, parsed] : inside) {
    EXPECT_EQ(ParseAnyhow(Start::kReasoning, false, text), parsed);
  }
  const Case either[] = {
      {"<think>\nwhy\n</think>\n\nso", {"R:why", "C:so"}},
      {" \n<think>why</think>so", {"R:why", "C:so"}},
      {"<think>\n\n</think>\n\nso", {"C:so"}},
      {" so <think>why</think>", {"C: so <think>why</think>"}},
      {"<thing>", {"C:<thing>"}},
      {"\n<thi", {"C:\n<thi"}},
  };
  for (const auto& [text, parsed] : either) {
    EXPECT_EQ(ParseAnyhow(Start::kEither, false, text), parsed);
  }
  EXPECT_EQ(ParseAnyhow(Start::kContent, false, "<think>why</think>\n"),
            Parsed{"C:<think>why</think>\n"});
}

TEST(CompletionParserTest, V3AndR1Calls) {
  const Case cases[] = {
      {"Let me see.\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"
       "<｜tool▁sep｜>weather\n```json\n{\"city\": \"東京\",\n \"days\": 3}\n"
       "```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
       "sum\n"
       "```json\n{\"t\": \"```\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       {"C:Let me see.",
        "T0 call_0 weather:{\"city\": \"東京\",\n \"days\": 3}",
        "T1 call_1 sum:{\"t\": \"```\"}"}},
      // Without the code block, without arguments, without an end.
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
       "{\"a\": "
       "1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
       "g\n```json\n```<｜tool▁calls▁end｜>\nThat is all.",
       {"T0 call_0 f:{\"a\": 1}", "T1 call_1 g:{}", "C:That is all."}},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
       "```json\n{\"a\": \"cut o",
       {"T0 call_0 f:{\"a\": \"cut o"}},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
       "```json\n{}\n```",
       {"T0 call_0 f:{}"}},
  };
  for (const auto& [text, parsed] : cases) {
    EXPECT_EQ(ParseAnyhow(Start::kEither, true, text), parsed);
  }
}

TEST(CompletionParserTest, V31Calls) {
  const Case cases[] = {
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
       "{\"city\": \"<b>\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>function"
       "<｜tool▁sep｜>{\"a\": 1} <｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       {"T0 call_0 weather:{\"city\": \"<b>\"}",
        "T1 call_1 function:{\"a\": 1}"}},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"
       "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁calls▁end｜>"
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>h<｜tool▁sep｜>{}",
       {"T0 call_0 f:{}", "T1 call_1 g:{}", "T2 call_2 h:{}"}},
  };
  for (const auto& [text, parsed] : cases) {
    EXPECT_EQ(ParseAnyhow(Start::kContent, true, text), parsed);
  }
}

TEST(CompletionParserTest, DsmlCalls) {
  const Case cases[] = {
      {"why</think>I look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke "
       "name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">x \"y\"\\\n"
       "\t</b> é\x01</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" "
       "string=\"false\"> [1, {\"c\": null}]\n</｜DSML｜parameter>\n"
       "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
       {"R:why", "C:I look.",
        "T0 call_0 f:{\"a\": \"x \\\"y\\\"\\\\\\n\\t</b> é\\u0001\", "
        "\"b\": [1, {\"c\": null}]}"}},
      {"</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"none\">\n"
       "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"g\">\n<｜DSML｜parameter "
       "name=\"a\" string=\"false\">not json</｜DSML｜parameter>\n"
       "<｜DSML｜parameter name=\"b\">2</｜DSML｜parameter>\n"
       "<｜DSML｜parameter name=\"c\" string=\"true\"></｜DSML｜parameter>\n"
       "</｜DSML｜invoke>\n</｜DSML｜tool_calls>\n\n",
       {"T0 call_0 none:{}",
        "T1 call_1 g:{\"a\": \"not json\", \"b\": 2, \"c\": \"\"}"}},
      // Ends of calls forgotten.
      {"</think><｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"><｜DSML｜invoke "
       "name=\"g\"><｜DSML｜parameter name=\"a\" string=\"false\">"
       "1</｜DSML｜parameter></｜DSML｜tool_calls>done",
       {"T0 call_0 f:{}", "T1 call_1 g:{\"a\": 1}", "C:done"}},
      // Cut off: the arguments stay open.
      {"</think><｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
       "<｜DSML｜parameter name=\"a\" string=\"true\">rm -r /tmp</｜DSML",
       {"T0 call_0 f:{\"a\": \"rm -r /tmp</｜DSML"}},
      {"</think><｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
       "<｜DSML｜parameter name=\"a\" string=\"false\">[1, 2",
       {"T0 call_0 f:{\"a\": [1, 2"}},
  };
  for (const auto& [text, parsed] : cases) {
    EXPECT_EQ(ParseAnyhow(Start::kReasoning, true, text), parsed);
  }
}

TEST(CompletionParserTest, DamagedBlocksBecomeContent) {
  const Case cases[] = {
      {"a\n<｜tool▁calls▁begin｜>b", {"C:a\n<｜tool▁calls▁begin｜>b"}},
      {"a<｜tool▁calls▁begin｜> <｜tool▁call▁begin｜>f\n{}",
       {"C:a<｜tool▁calls▁begin｜> <｜tool▁call▁begin｜>f\n{}"}},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>{}",
       {"C:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>{}"}},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜><x>\n",
       {"C:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
        "<x>\n"}},
      {"\n\n<｜DSML｜tool_calls>\nwhat?",
       {"C:\n\n<｜DSML｜tool_calls>\nwhat?"}},
      {"<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"\">",
       {"C:<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"\">"}},
      {"<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f",
       {"C:<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f"}},
      {"<｜DSML｜function_calls></｜DSML｜tool_calls>",
       {"C:<｜DSML｜function_calls></｜DSML｜tool_calls>"}},
      // After a good call; and a good block after a damaged one.
      {"<｜DSML｜tool_calls><｜DSML｜invoke "
       "name=\"f\"></｜DSML｜invoke>\nwhat?",
       {"T0 call_0 f:{}", "C:\nwhat?"}},
      {"<｜DSML｜tool_calls>oh<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\">"
       "</｜DSML｜invoke></｜DSML｜tool_calls>",
       {"C:<｜DSML｜tool_calls>oh", "T0 call_0 f:{}"}},
      {"<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\">\nwhat?",
       {"T0 call_0 f:{", "C:what?"}},
      {"<｜DSML｜tool_calls></｜DSML｜tool_calls>", {}},
      {"<｜tool▁calls", {"C:<｜tool▁calls"}},
      {"a \n\n", {"C:a \n\n"}},
  };
  for (const auto& [text, parsed] : cases) {
    EXPECT_EQ(ParseAnyhow(Start::kContent, true, text), parsed);
  }
  const std::string long_name(300, 'n');
  for (const std::string& text :
       {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>" + long_name,
        "<｜DSML｜tool_calls><｜DSML｜invoke name=\"" + long_name + "\">",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>" +
            long_name}) {
    EXPECT_EQ(ParseAnyhow(Start::kContent, true, text),
              Parsed{absl::StrCat("C:", text)});
  }
}

TEST(CompletionParserTest, WithoutToolsBlocksAreText) {
  const std::string text =
      "a\n\n<｜DSML｜tool_calls>\n<｜tool▁calls▁begin｜></think>";
  EXPECT_EQ(ParseAnyhow(Start::kContent, false, text),
            Parsed{absl::StrCat("C:", text)});
}

TEST(CompletionParserTest, NothingIsHeldThatIsSure) {
  Reader plain(Start::kContent, false);
  plain.Push("a\n<");
  EXPECT_EQ(plain.parsed(), Parsed{"C:a\n<"});

  Reader reader(Start::kReasoning, true);
  reader.Push("why <");
  EXPECT_EQ(reader.parsed().back(), "R:why ");
  reader.Push("b></think>so ");
  EXPECT_EQ(reader.parsed().back(), "C:so ");
  reader.Push("< ");
  EXPECT_EQ(reader.parsed().back(), "C:so < ");
  reader.Push("<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\">");
  EXPECT_EQ(reader.parsed().back(), "T0 call_0 f:{");
  reader.Push("<｜DSML｜parameter name=\"a\" string=\"true\">");
  EXPECT_EQ(reader.parsed().back(), "T0 call_0 f:{\"a\": \"");
  reader.Push("b");
  EXPECT_EQ(reader.parsed().back(), "T0 call_0 f:{\"a\": \"b");

  Reader raw(Start::kContent, true);
  raw.Push("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>");
  EXPECT_EQ(raw.parsed().back(), "T0 call_0 f:");
  raw.Push("{\"a\":");
  EXPECT_EQ(raw.parsed().back(), "T0 call_0 f:{\"a\":");
}

// What the goldens show the assistant saying comes back as it was.
TEST(CompletionParserTest, ReadsWhatTheFormatsWrite) {
  const std::string path = std::string(SHOAL_GOLDEN_DIR) + "/chat/chat.json";
  int num_read = 0;
  for (const auto& golden : nlohmann::json::parse(ReadFile(path))) {
    const std::string prompt = golden["prompt"];
    const auto& messages = golden["messages"];
    const auto called = std::ranges::find_if(
        messages, [](const auto& m) { return m.contains("tool_calls"); });
    if (called == messages.end()) continue;
    const auto& calls = (*called)["tool_calls"];
    size_t from = prompt.find(chat_tokens::kAssistant);
    from += chat_tokens::kAssistant.size();
    std::string said =
        prompt.substr(from, prompt.find(chat_tokens::kEnd, from) - from);
    if (said.starts_with("</think>")) said.erase(0, 8);
    Parsed parsed = ParseAnyhow(Start::kEither, true, said);
    if (said.starts_with("<think>")) {
      EXPECT_EQ(parsed.front(), "R:call both");
      parsed.erase(parsed.begin());
    }
    ASSERT_EQ(parsed.size(), calls.size()) << said;
    for (size_t i = 0; i < calls.size(); ++i) {
      const auto& function = calls[i]["function"];
      EXPECT_EQ(parsed[i],
                absl::StrCat("T", i, " call_", i, " ",
                             function["name"].get<std::string>(), ":",
                             function["arguments"].get<std::string>()));
    }
    ++num_read;
  }
  EXPECT_EQ(num_read, 14);
}

// Markers in any order: no crash, no loop, the same however it is cut.
TEST(CompletionParserTest, ShuffledMarkersNeverConfuseIt) {
  const std::string pieces[] = {
      "<think>",
      "</think>",
      "<｜tool▁calls▁begin｜>",
      "<｜tool▁call▁begin｜>",
      "function",
      "<｜tool▁sep｜>",
      "f\n",
      "```json\n",
      "{\"a\": 1}",
      "\n```",
      "<｜tool▁call▁end｜>",
      "<｜tool▁calls▁end｜>",
      "<｜DSML｜tool_calls>",
      "<｜DSML｜invoke name=\"f\">",
      "<｜DSML｜parameter name=\"k\" "
      "string=\"true\">",
      "<｜DSML｜parameter name=\"k\" string=\"false\">",
      "v",
      "</｜DSML｜parameter>",
      "</｜DSML｜invoke>",
      "</｜DSML｜tool_calls>",
      "\n",
      " ",
      "<",
      "`",
      "\"",
      "｜DSML｜"};
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    const size_t count = 1 + random() % 16;
    for (size_t i = 0; i < count; ++i) {
      text += pieces[random() % std::size(pieces)];
    }
    const Start start = static_cast<Start>(random() % 3);
    const Parsed whole = Parse(start, true, text);
    for (int again = 0; again < 4; ++again) {
      Reader reader(start, true);
      for (size_t at = 0; at < text.size();) {
        const size_t size = again == 0 ? 1 : 1 + random() % 9;
        reader.Push(std::string_view(text).substr(at, size));
        at += size;
      }
      ASSERT_EQ(reader.Finish(), whole) << text;
    }
  }
}

}  // namespace
}  // namespace shoal
