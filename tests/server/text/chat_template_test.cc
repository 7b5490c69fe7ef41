// Chat templates: rendering as transformers does it, control tokens typed by
// users, and the bounds on templates.

#include <vector>

#include "gmock/gmock.h"
#include "tests/server/text/text_fixtures.h"

namespace shoal {
namespace {

using ::testing::Test;

class ChatTemplateTest : public Test {
 protected:
  std::unique_ptr<ModelText> Load(const std::string& source) {
    folder_.Write("chat_template.jinja", source);
    auto text = folder_.Load();
    EXPECT_TRUE(text.ok()) << text.status();
    return text.ok() ? *std::move(text) : nullptr;
  }
  std::string Render(const std::string& source,
                     const ChatTemplateInput& input) {
    auto rendered = Load(source)->RenderChat(input);
    EXPECT_TRUE(rendered.ok()) << rendered.status();
    return rendered.value_or("");
  }

  const ModelFolder folder_;
};

ChatTemplateInput WithMessages(const std::string& json) {
  ChatTemplateInput input;
  input.messages_json = json;
  return input;
}

const ChatTemplateInput kHi =
    WithMessages(R"([{"role":"user","content":"hi"}])");

TEST_F(ChatTemplateTest, RendersAsTransformersDoes) {
  const struct {
    const char* source;
    const char* rendered;
  } cases[] = {
      {"{{ bos_token }}{{ eos_token }}{{ pad_token }}", "<|begin|><|end|>"},
      {"  {% for m in messages %}\n{{ m.role }}: {{ m['content'] }}\n"
       "  {% endfor %}\nend\n",
       "user: hi\nend"},
      {"{% if tools is none %}no tools{% endif %}", "no tools"},
      {"{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
       "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
       "013"},
      {"{{ {'b': 'é<', 'a': [1, 2.0, true, none]} | tojson }}",
       "{\"b\": \"é<\", \"a\": [1, 2.0, true, null]}"},
      {"{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}"},
      {"{{ 'a,b'.split(',')[-1].strip().upper() }}"
       "{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}",
       "Bx1"},
      {"{% set ns = namespace(n=0) %}{% for i in [1, 2] %}"
       "{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
       "3"},
      {"{{ true }} {{ none }} {{ add_generation_prompt }}", "True None True"},
      {"{%- generation %}x{% endgeneration -%}\n y", "xy"},
      {"{{ strftime_now('%Y') | length }}", "4"},
  };
  for (const auto& [source, rendered] : cases) {
    EXPECT_EQ(Render(source, kHi), rendered) << source;
  }
}

TEST_F(ChatTemplateTest, PassesToolsAndVariables) {
  ChatTemplateInput input = kHi;
  input.tools_json = R"([{"z":1,"a":{"y":2,"b":3}}])";
  input.template_kwargs_json = R"({"enable_thinking":false})";
  input.add_generation_prompt = false;
  EXPECT_EQ(Render("{{ tools[0] | tojson }} {{ enable_thinking }} "
                   "{{ add_generation_prompt }}",
                   input),
            R"({"z": 1, "a": {"y": 2, "b": 3}} False False)");
}

TEST_F(ChatTemplateTest, TemplatesComeFromTheConfigToo) {
  folder_.Write("tokenizer_config.json",
                R"({"chat_template":[{"name":"tool_use","template":"t"},)"
                R"({"name":"default","template":"d"}]})");
  EXPECT_EQ(folder_.Load().value()->RenderChat(kHi).value(), "d");
  folder_.Write("tokenizer_config.json", "{}");
  auto text = folder_.Load().value();
  EXPECT_FALSE(text->has_chat_template());
  EXPECT_EQ(text->RenderChat(kHi).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// DeepSeek's own templates join arguments to text, others print a value.
TEST_F(ChatTemplateTest, ArgumentsAreWhatTheTemplateCanPrint) {
  const std::string arguments = "messages[0].tool_calls[0].function.arguments";
  const ChatTemplateInput input =
      WithMessages(R"([{"role":"assistant","tool_calls":[{"id":"1","function":)"
                   R"({"name":"f","arguments":{"a":[1,"é"]}}}]}])");
  EXPECT_EQ(Render("{{ 'x' + " + arguments + " }}", input),
            R"(x{"a": [1, "é"]})");
  EXPECT_EQ(Render("{{ " + arguments + ".a[0] }}", input), "1");
  EXPECT_EQ(Load("{{ raise_exception('no') }}" + arguments)
                ->RenderChat(input)
                .status()
                .message(),
            "no");
}

TEST_F(ChatTemplateTest, ErrorsAreTheTemplatesOwnWords) {
  auto refused =
      Load("{{ raise_exception('roles must alternate') }}")->RenderChat(kHi);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refused.status().message(), "roles must alternate");

  folder_.Write("chat_template.jinja", "{% for %}");
  const absl::Status status = folder_.Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("chat_template.jinja: chat_template:"),
            status.message().npos)
      << status;
  EXPECT_EQ(status.message().find('\n'), status.message().npos) << status;
}

TEST_F(ChatTemplateTest, StepsOutputAndDepthAreBounded) {
  for (const char* source :
       {"{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}"
        "{% endfor %}",
        "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}"
        "{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"}) {
    EXPECT_EQ(Load(source)->RenderChat(kHi).status().code(),
              absl::StatusCode::kInvalidArgument)
        << source;
  }
}

TEST_F(ChatTemplateTest, TypedControlTokensStayText) {
  const std::string joined =
      "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
  const auto text = Load(joined);
  for (const char* typed : {
           "a<|end|>b",
           "<|begin|><|end|>",
           "<|e<|end|>nd|>",
           // The marker itself does not help.
           "<\xEF\xB7\x90|end|>",
       }) {
    const nlohmann::json messages = {{{"role", "user"}, {"content", typed}}};
    const ChatTemplateInput input = WithMessages(messages.dump());
    const auto ids = text->EncodeChat(input).value();
    EXPECT_EQ(ids.front(), 0) << typed;
    for (size_t i = 1; i < ids.size(); ++i) {
      EXPECT_FALSE(text->IsSpecial(ids[i])) << typed;
    }
    const std::string rendered = text->RenderChat(input).value();
    EXPECT_EQ(text->Decode(ids, false), rendered);
    EXPECT_EQ(rendered.find("\xEF\xB7\x90"), rendered.npos);
  }
  // Nor do two strings that the template joins, or keys and tools.
  ChatTemplateInput input =
      WithMessages(R"([{"content":"<|e"},{"content":"nd|>"}])");
  const std::vector<int32_t> strings = text->EncodeChat(input).value();
  EXPECT_THAT(strings, testing::Each(testing::Ne(1)));
  input.tools_json = R"([{"<|end|>":{"name":["<|end|>"]}}])";
  input.template_kwargs_json = R"({"date":"<|end|>"})";
  const auto tools = Load("{{ tools | tojson }}{{ date }}");
  const std::vector<int32_t> named = tools->EncodeChat(input).value();
  EXPECT_THAT(named, testing::Each(testing::Ne(1)));
}

TEST_F(ChatTemplateTest, TheTemplatesOwnTokensAreRecognised) {
  const auto text = Load("{{ bos_token }}{{ messages[0].content }}<|end|>");
  const auto ids = text->EncodeChat(kHi).value();
  EXPECT_EQ(ids.front(), 0);
  EXPECT_NE(ids[1], 0);  // no second bos
  EXPECT_EQ(ids.back(), 1);
  // The tokeniser adds bos, so a template without it gets one.
  EXPECT_EQ(Load("x")->EncodeChat(kHi).value().front(), 0);
}

TEST_F(ChatTemplateTest, AssistantsMayQuoteThinkTags) {
  auto tokenizer = ReadJson(GoldenPath("small/tokenizer.json"));
  auto think = tokenizer["added_tokens"][0];
  think["id"] = 2048;
  think["content"] = "</think>";
  tokenizer["added_tokens"].push_back(think);
  folder_.Write("tokenizer.json", tokenizer.dump());
  const std::string source = "{{ messages[0].content.split('</think>')[-1] }}";
  ChatTemplateInput input =
      WithMessages(R"([{"role":"assistant","content":"a</think>b"}])");
  EXPECT_EQ(Render(source, input), "b");
  input.messages_json = R"([{"role":"user","content":"a</think>b"}])";
  EXPECT_EQ(Render(source, input), "a</think>b");
}

TEST_F(ChatTemplateTest, Smollm2FromGguf) {
  auto gguf = GgufFile::Open(CachePath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto text = ModelText::LoadGguf(**gguf).value();
  EXPECT_EQ(text->RenderChat(kHi).value(),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
            "trained by Hugging Face<|im_end|>\n<|im_start|>user\nhi<|im_end|>"
            "\n<|im_start|>assistant\n");
  const auto ids = text->EncodeChat(kHi).value();
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(text->Decode(ids, false), text->RenderChat(kHi).value());
  EXPECT_EQ(text->TokenId("<|im_end|>"), 2);
}

}  // namespace
}  // namespace shoal
