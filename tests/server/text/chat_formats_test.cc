// The built-in chat formats: every golden case to the byte, how requests'
// tools and variables reach them, what they refuse, and which models get them.

#include "server/text/chat_formats.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "server/text/chat_conversation.h"
#include "server/text/chat_instructions.h"
#include "server/text/json_bounds.h"
#include "tests/server/text/text_fixtures.h"

namespace shoal {

// Names the cases of a failed parametrised test; found by GoogleTest.
void PrintTo(const ChatFormat& format, std::ostream* os) {
  *os << static_cast<int>(format);
}

namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string ChatGolden(const std::string& name) {
  return ReadFile(std::string(SHOAL_GOLDEN_DIR) + "/chat/" + name);
}

ChatFormat FormatNamed(const std::string& name) {
  static const std::map<std::string, ChatFormat> kFormats = {
      {"v2", ChatFormat::kV2},    {"v3", ChatFormat::kV3},
      {"r1", ChatFormat::kR1},    {"v3.1", ChatFormat::kV31},
      {"v3.2", ChatFormat::kV32}, {"v4", ChatFormat::kV4}};
  return kFormats.at(name);
}

struct GoldenCase {
  std::string name;
  ChatFormat format;
  ChatTemplateInput input;
  std::string prompt;
};

void PrintTo(const GoldenCase& golden, std::ostream* os) { *os << golden.name; }

std::vector<GoldenCase> GoldenCases() {
  std::vector<GoldenCase> cases;
  for (const OrderedJson& json : OrderedJson::parse(ChatGolden("chat.json"))) {
    GoldenCase golden;
    const std::string format = json["format"];
    golden.name = format + "_" + json["name"].get<std::string>();
    golden.format = FormatNamed(format);
    golden.input.messages_json = json["messages"].dump();
    OrderedJson kwargs = OrderedJson::object();
    for (const char* variable : {"thinking", "reasoning_effort"}) {
      if (json.contains(variable)) kwargs[variable] = json[variable];
    }
    if (!kwargs.empty()) golden.input.template_kwargs_json = kwargs.dump();
    if (json.value("thinking", false)) golden.name += "_thinking";
    std::erase(golden.name, '.');
    golden.prompt = json["prompt"];
    cases.push_back(std::move(golden));
  }
  return cases;
}

class ChatFormatGoldenTest : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(ChatFormatGoldenTest, EncodesToTheByte) {
  auto prompt = EncodeChatFormat(GetParam().format, GetParam().input);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(*prompt, GetParam().prompt);
}

INSTANTIATE_TEST_SUITE_P(All, ChatFormatGoldenTest,
                         ::testing::ValuesIn(GoldenCases()),
                         [](const auto& info) { return info.param.name; });

ChatTemplateInput Input(const std::string& messages,
                        const std::string& kwargs = "",
                        const std::string& tools = "") {
  ChatTemplateInput input;
  input.messages_json = messages;
  input.template_kwargs_json = kwargs;
  input.tools_json = tools;
  return input;
}

std::string Encode(ChatFormat format, const ChatTemplateInput& input) {
  auto prompt = EncodeChatFormat(format, input);
  EXPECT_TRUE(prompt.ok()) << prompt.status();
  return prompt.value_or("");
}

TEST(ChatFormatsTest, InstructionsAreTheGoldenOnes) {
  const auto golden = nlohmann::json::parse(ChatGolden("constants.json"));
  const auto around = [](std::string_view head, std::string_view tail) {
    return std::string(head) + "{tool_schemas}" + std::string(tail);
  };
  EXPECT_EQ(around(kV32ToolsHead, kV32ToolsTail), golden["v32_tools"]);
  EXPECT_EQ(around(kV4ToolsHead, kV4ToolsTail), golden["v4_tools"]);
  EXPECT_EQ(kV4EffortMax, golden["v4_effort_max"]);
  EXPECT_EQ(std::string(kResponseFormatHead) + "{schema}",
            golden["response_format"]);
}

// A request's tools, schema and object arguments, as the protocols give them,
// come out like the goldens' own.
TEST(ChatFormatsTest, RequestsToolsGoIntoTheSystemText) {
  for (const OrderedJson& json : OrderedJson::parse(ChatGolden("chat.json"))) {
    OrderedJson messages = json["messages"];
    OrderedJson kwargs = {{"thinking", json.value("thinking", false)}};
    if (json.contains("reasoning_effort")) {
      kwargs["reasoning_effort"] = json["reasoning_effort"];
    }
    ChatTemplateInput input;
    OrderedJson& first = messages[0];
    if (first.contains("tools")) {
      input.tools_json = first["tools"].dump();
      first.erase("tools");
    }
    if (first.contains("response_format")) {
      kwargs["response_format"] = first["response_format"];
      first.erase("response_format");
    }
    for (OrderedJson& message : messages) {
      if (!message.contains("tool_calls")) continue;
      for (OrderedJson& call : message["tool_calls"]) {
        OrderedJson& arguments = call["function"]["arguments"];
        arguments = OrderedJson::parse(arguments.get<std::string>());
      }
    }
    input.messages_json = messages.dump();
    input.template_kwargs_json = kwargs.dump();
    EXPECT_EQ(Encode(FormatNamed(json["format"]), input), json["prompt"])
        << json["name"];
  }
}

TEST(ChatFormatsTest, ToolsWithoutASystemTextBringOne) {
  const std::string prompt = Encode(
      ChatFormat::kV32,
      Input(R"([{"role":"user","content":"a"}])", "", R"([{"name":"f"}])"));
  EXPECT_THAT(prompt, StartsWith("<｜begin▁of▁sentence｜>\n\n## Tools\n"));
  EXPECT_THAT(prompt, HasSubstr("\n{\"name\": \"f\"}\n"));
}

TEST(ChatFormatsTest, DevelopersAreSystemsUntilAUserSpeaks) {
  const std::string leading =
      R"([{"role":"developer","content":"d"},{"role":"user","content":"u"}])";
  for (const ChatFormat format :
       {ChatFormat::kV3, ChatFormat::kV32, ChatFormat::kV4}) {
    EXPECT_THAT(
        Encode(format, Input(leading)),
        StartsWith("<｜begin▁of▁sentence｜>d<｜User｜>u<｜Assistant｜>"));
  }
  const std::string later =
      R"([{"role":"user","content":"u"},{"role":"assistant","content":"a"},)"
      R"({"role":"developer","content":"d"},{"role":"assistant","content":"b"},)"
      R"({"role":"user","content":"v"}])";
  EXPECT_THAT(Encode(ChatFormat::kV32, Input(later)),
              HasSubstr("<｜User｜>d<｜Assistant｜></think>b"));
  EXPECT_THAT(Encode(ChatFormat::kV4, Input(later)), HasSubstr("<｜User｜>d"));
  EXPECT_THAT(Encode(ChatFormat::kV4, Input(later, R"({"thinking":true})")),
              Not(HasSubstr("<｜User｜>d")));
}

TEST(ChatFormatsTest, EffortsAskForThinking) {
  const std::string hi = R"([{"role":"user","content":"hi"}])";
  const auto ending = [&](const char* kwargs) {
    const std::string prompt = Encode(ChatFormat::kV31, Input(hi, kwargs));
    return prompt.substr(prompt.rfind('>', prompt.size() - 2) + 1);
  };
  EXPECT_EQ(ending(""), "</think>");
  EXPECT_EQ(ending(R"({"reasoning_effort":"high"})"), "<think>");
  EXPECT_EQ(ending(R"({"reasoning_effort":"none"})"), "</think>");
  EXPECT_EQ(ending(R"({"reasoning_effort":"high","thinking":false})"),
            "</think>");
  EXPECT_EQ(ending(R"({"enable_thinking":true})"), "<think>");
}

TEST(ChatFormatsTest, WithoutAGenerationPromptTheLastTurnEnds) {
  ChatTemplateInput input = Input(
      R"([{"role":"user","content":"u"},{"role":"assistant","content":"a"}])");
  input.add_generation_prompt = false;
  for (const ChatFormat format :
       {ChatFormat::kV2, ChatFormat::kV3, ChatFormat::kR1, ChatFormat::kV31,
        ChatFormat::kV32, ChatFormat::kV4}) {
    EXPECT_THAT(Encode(format, input), EndsWith("a<｜end▁of▁sentence｜>"));
  }
  input.messages_json = R"([{"role":"user","content":"u"}])";
  EXPECT_THAT(Encode(ChatFormat::kV32, input), EndsWith("<｜User｜>u"));
  EXPECT_THAT(Encode(ChatFormat::kV4, input), EndsWith("<｜User｜>u"));
}

TEST(ChatFormatsTest, V4MergesResultsAndTextInPlace) {
  const std::string prompt =
      Encode(ChatFormat::kV4,
             Input(R"([{"role":"assistant","tool_calls":[)"
                   R"({"id":"a","function":{"name":"f"}},)"
                   R"({"id":"b","function":{"name":"g","arguments":{}}}]},)"
                   R"({"role":"tool","tool_call_id":"x","content":"unknown"},)"
                   R"({"role":"user","content":"text"},)"
                   R"({"role":"tool","tool_call_id":"b","content":"second"},)"
                   R"({"role":"tool","tool_call_id":"a","content":"first"},)"
                   R"({"role":"latest_reminder","content":"r"}])"));
  EXPECT_THAT(prompt,
              HasSubstr("<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>"));
  EXPECT_THAT(prompt,
              HasSubstr("<｜User｜><tool_result>first</tool_result>\n\ntext\n\n"
                        "<tool_result>second</tool_result>\n\n"
                        "<tool_result>unknown</tool_result>"
                        "<｜latest_reminder｜>r<｜Assistant｜></think>"));
}

TEST(ChatFormatsTest, MalformedInputIsNamed) {
  const struct {
    ChatFormat format;
    ChatTemplateInput input;
    const char* message;
  } cases[] = {
      {ChatFormat::kV3, Input("{"), "messages: expected JSON"},
      {ChatFormat::kV3, Input("[]"), "messages: expected an array"},
      {ChatFormat::kV3, Input("[\"x\"]"), "messages[0]: expected an object"},
      {ChatFormat::kV3, Input(R"([{"content":"x"}])"), "expected a role"},
      {ChatFormat::kV3, Input(R"([{"role":"user","content":[]}])"),
       "messages[0]: content: expected a string"},
      {ChatFormat::kV4, Input(R"([{"role":"user"},{"role":"bird"}])"),
       "messages[1]: expected a role of"},
      {ChatFormat::kV32,
       Input(R"([{"role":"assistant","tool_calls":[{"id":"a"}]}])"),
       "messages[0]: tool_calls: expected objects with a function"},
      {ChatFormat::kV32,
       Input(R"([{"role":"assistant","tool_calls":[{"function":{}}]}])"),
       "messages[0]: tool_calls: expected a function's name"},
      {ChatFormat::kV32,
       Input(R"([{"role":"user"},{"role":"assistant","tool_calls":)"
             R"([{"function":{"name":"f","arguments":"[1]"}}]}])"),
       "messages[1]: tool_calls: expected arguments in a JSON object"},
      {ChatFormat::kV3, Input(R"([{"role":"user","tool_calls":[1]}])"),
       "messages[0]: only an assistant calls tools"},
      {ChatFormat::kV2, Input(R"([{"role":"tool","content":"x"}])"),
       "has no tool calls"},
      {ChatFormat::kV2, Input(R"([{"role":"user"}])", "", "[{}]"), "tools:"},
      {ChatFormat::kV31, Input(R"([{"role":"user"}])", R"({"thinking":1})"),
       "thinking: expected true or false"},
      {ChatFormat::kV31, Input(R"([{"role":"user"}])", "[]"),
       "chat_template_kwargs: expected a JSON object"},
      {ChatFormat::kV4, Input("[" + std::string(9999, '[')),
       "nested too deeply"},
  };
  for (const auto& [format, input, message] : cases) {
    const absl::Status status = EncodeChatFormat(format, input).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(status.message(), HasSubstr(message));
  }
}

TEST(ChatFormatsTest, JsonLooksLikePythons) {
  EXPECT_EQ(DumpPythonJson(OrderedJson::parse(
                R"({"b":[1,2.5,true,null,"é\n\"\\\u0001"],"a":{},"c":[]})")),
            "{\"b\": [1, 2.5, true, null, \"é\\n\\\"\\\\\\u0001\"], "
            "\"a\": {}, \"c\": []}");
}

TEST(ChatFormatsTest, TypeAndVocabularyChoose) {
  const std::set<std::string, std::less<>> v2 = {"<｜begin▁of▁sentence｜>"};
  auto v3 = v2;
  v3.insert({"<｜User｜>", "<｜Assistant｜>"});
  auto r1 = v3;
  r1.insert("</think>");
  auto v31 = r1;
  v31.insert("<｜search▁begin｜>");
  const auto choose = [](const char* type, const auto& tokens) {
    return ChooseChatFormat(
        type, [&](std::string_view token) { return tokens.contains(token); });
  };
  EXPECT_EQ(choose("deepseek", v2), ChatFormat::kV2);
  EXPECT_EQ(choose("deepseek_v2", v3), ChatFormat::kV2);
  EXPECT_EQ(choose("deepseek_v3", v3), ChatFormat::kV3);
  EXPECT_EQ(choose("deepseek_v3", r1), ChatFormat::kR1);
  EXPECT_EQ(choose("deepseek_v3", v31), ChatFormat::kV31);
  EXPECT_EQ(choose("deepseek_v32", v31), ChatFormat::kV32);
  EXPECT_EQ(choose("deepseek_v4", v31), ChatFormat::kV4);
  EXPECT_EQ(choose("deepseek_v4", v2), std::nullopt);
  EXPECT_EQ(choose("llama", v31), std::nullopt);
  EXPECT_EQ(choose("deepseek_v2", std::set<std::string, std::less<>>()),
            std::nullopt);
}

TEST(JsonBoundsTest, DepthAndMembersAreCounted) {
  EXPECT_TRUE(IsBoundedJson(std::string(64, '[') + std::string(64, ']')));
  EXPECT_FALSE(IsBoundedJson(std::string(65, '[')));
  EXPECT_TRUE(IsBoundedJson("\"" + std::string(99, '[') + "\\\"[[[\""));
  std::string many = "{";
  for (int i = 0; i < 4096; ++i) many += "\"\":0,";
  EXPECT_TRUE(IsBoundedJson(many));
  EXPECT_FALSE(IsBoundedJson(many + "\"\":0"));
}

// A vocabulary with the formats' tokens, and no template.
class BuiltInFormatTest : public ::testing::Test {
 protected:
  BuiltInFormatTest() {
    auto tokenizer = ReadJson(GoldenPath("small/tokenizer.json"));
    auto added = tokenizer["added_tokens"][0];
    int id = 2048;
    for (const char* token :
         {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>",
          "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜"}) {
      added["id"] = id++;
      added["content"] = token;
      added["special"] = false;
      tokenizer["added_tokens"].push_back(added);
    }
    folder_.Write("tokenizer.json", tokenizer.dump());
    folder_.Write("tokenizer_config.json",
                  R"({"bos_token":"<｜begin▁of▁sentence｜>"})");
    text_ = ModelText::LoadFolder(folder_.path(), "deepseek_v4").value();
  }

  const ModelFolder folder_;
  std::unique_ptr<ModelText> text_;
};

TEST_F(BuiltInFormatTest, TypedControlTokensStayText) {
  ASSERT_TRUE(text_->has_chat_template());
  const ChatTemplateInput input = Input(
      R"([{"role":"system","content":"<｜User｜> <｜begin▁of▁sentence｜>"},)"
      R"({"role":"user","content":"</think><｜end▁of▁"},)"
      R"({"role":"assistant","content":"","tool_calls":[{"id":"1",)"
      R"("function":{"name":"f","arguments":{"｜DSML｜":"<｜User｜>"}}}]},)"
      R"({"role":"tool","tool_call_id":"1","content":"｜DSML｜"}])",
      "", R"([{"name":"f","description":"<｜Assistant｜>"}])");
  const std::vector<int32_t> ids = text_->EncodeChat(input).value();
  const auto count = [&](const char* token) {
    return std::count(ids.begin(), ids.end(), text_->TokenId(token).value());
  };
  EXPECT_EQ(ids.front(), text_->TokenId("<｜begin▁of▁sentence｜>"));
  EXPECT_EQ(count("<｜begin▁of▁sentence｜>"), 1);
  EXPECT_EQ(count("<｜end▁of▁sentence｜>"), 1);
  EXPECT_EQ(count("<｜User｜>"), 2);
  EXPECT_EQ(count("<｜Assistant｜>"), 2);
  // In the instructions 9, in the call 6.
  EXPECT_EQ(count("｜DSML｜"), 15);
  const std::string rendered = text_->RenderChat(input).value();
  EXPECT_EQ(text_->Decode(ids, false), rendered);
  EXPECT_THAT(rendered, Not(HasSubstr("\xEF\xB7\x90")));
}

TEST_F(BuiltInFormatTest, SyntaxComesFromFormatTemplateAndVocabulary) {
  const CompletionSyntax& v4 = text_->completion_syntax();
  EXPECT_TRUE(v4.think_tags);
  EXPECT_TRUE(v4.tool_blocks);
  EXPECT_THAT(v4.tokens, testing::UnorderedElementsAre(
                             text_->TokenId("<think>").value(),
                             text_->TokenId("</think>").value(),
                             text_->TokenId("｜DSML｜").value()));

  const ModelFolder plain;
  EXPECT_FALSE(plain.Load().value()->completion_syntax().think_tags);
  EXPECT_FALSE(plain.Load().value()->completion_syntax().tool_blocks);
  plain.Write("chat_template.jinja", "{{ '<think></think>' }}");
  EXPECT_TRUE(plain.Load().value()->completion_syntax().think_tags);
}

TEST_F(BuiltInFormatTest, AModelsOwnTemplateComesFirst) {
  folder_.Write("chat_template.jinja", "mine");
  const auto text =
      ModelText::LoadFolder(folder_.path(), "deepseek_v4").value();
  EXPECT_EQ(text->RenderChat(Input(R"([{"role":"user"}])")).value(), "mine");
}

TEST_F(BuiltInFormatTest, OtherModelsHaveNone) {
  EXPECT_FALSE(ModelText::LoadFolder(folder_.path(), "llama")
                   .value()
                   ->has_chat_template());
  const absl::Status refused =
      text_->RenderChat(Input(R"([{"role":"bird"}])")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal
