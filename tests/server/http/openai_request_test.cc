#include "server/http/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

HttpRequest Http(const std::string& body) {
  HttpRequest request;
  request.request_id = "rid";
  request.tenant = "alice";
  request.body = body;
  return request;
}

absl::StatusOr<OpenAiRequest> Chat(const std::string& members) {
  return ParseChatRequest(
      Http(R"({"messages":[{"role":"user","content":"Hi"}])" +
           (members.empty() ? "" : "," + members) + "}"));
}

absl::StatusOr<OpenAiRequest> Completion(const std::string& members) {
  return ParseCompletionRequest(Http("{" + members + "}"));
}

TEST(OpenAiRequestTest, DefaultsOfChat) {
  const auto request = Chat("");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(request->chat);
  EXPECT_FALSE(request->stream);
  ASSERT_EQ(request->generations.size(), 1u);
  const GenerationRequest& generation = request->generations[0];
  EXPECT_EQ(generation.request_id, "rid");
  EXPECT_EQ(generation.tenant, "alice");
  EXPECT_EQ(generation.model, "");
  EXPECT_FALSE(generation.max_tokens.has_value());
  EXPECT_EQ(generation.n, 1);
  EXPECT_EQ(generation.sampling.temperature, 1);
  EXPECT_EQ(generation.sampling.logprobs, -1);
  EXPECT_EQ(generation.sampling.prompt_logprobs, -1);
  EXPECT_TRUE(generation.skip_special_tokens);
  const auto& prompt = std::get<ChatPrompt>(generation.prompt);
  EXPECT_EQ(prompt.messages[0].content, "Hi");
  EXPECT_TRUE(prompt.add_generation_prompt);
}

TEST(OpenAiRequestTest, EverySamplingParameter) {
  const auto request =
      Chat(R"("model":"m","temperature":0,"top_p":0.5,"top_k":-1,"min_p":0.1,)"
           R"("repetition_penalty":1.5,"presence_penalty":-2,)"
           R"("frequency_penalty":2,"min_tokens":3,"max_tokens":7,)"
           R"("max_completion_tokens":8.0,"stop":["a","b"],)"
           R"("stop_token_ids":[4,5],"ignore_eos":true,"seed":-1,)"
           R"("logit_bias":{"9":-100,"10":2.5},"logprobs":true,)"
           R"("top_logprobs":20,"prompt_logprobs":1,"n":2,"priority":-3,)"
           R"("cache_salt":"s","include_stop_str_in_output":true,)"
           R"("skip_special_tokens":false,"allowed_token_ids":[1],)"
           R"("user":"ignored","unknown":{"x":1},"echo":false,)"
           R"("response_format":{"type":"text"})");
  ASSERT_TRUE(request.ok()) << request.status();
  const GenerationRequest& generation = request->generations[0];
  EXPECT_EQ(generation.model, "m");
  EXPECT_EQ(generation.max_tokens, 8);
  EXPECT_THAT(generation.stop, ElementsAre("a", "b"));
  EXPECT_TRUE(generation.include_stop_in_output);
  EXPECT_FALSE(generation.skip_special_tokens);
  EXPECT_EQ(generation.n, 2);
  EXPECT_EQ(generation.priority, -3);
  EXPECT_EQ(generation.cache_salt, "s");
  const SamplingParams& sampling = generation.sampling;
  EXPECT_EQ(sampling.temperature, 0);
  EXPECT_EQ(sampling.top_p, 0.5f);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.min_p, 0.1f);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(sampling.presence_penalty, -2);
  EXPECT_EQ(sampling.frequency_penalty, 2);
  EXPECT_EQ(sampling.min_tokens, 3);
  EXPECT_THAT(sampling.stop_token_ids, ElementsAre(4, 5));
  EXPECT_THAT(sampling.allowed_token_ids, ElementsAre(1));
  EXPECT_TRUE(sampling.ignore_eos);
  EXPECT_EQ(sampling.seed, ~uint64_t{0});
  EXPECT_THAT(sampling.logit_bias, ElementsAre(Pair(9, -100), Pair(10, 2.5f)));
  EXPECT_EQ(sampling.logprobs, 20);
  EXPECT_EQ(sampling.prompt_logprobs, 1);
}

TEST(OpenAiRequestTest, Messages) {
  const auto request = ParseChatRequest(
      Http(R"({"messages":[{"role":"system","content":"s"},)"
           R"({"role":"user","content":[{"type":"text","text":"a"},)"
           R"({"type":"text","text":"b"}],"name":"bob"},)"
           R"({"role":"assistant","content":null,"reasoning_content":"r",)"
           R"("tool_calls":[{"id":"c1","type":"function",)"
           R"("function":{"name":"f","arguments":"{\"x\":1}"}}]},)"
           R"({"role":"tool","content":"42","tool_call_id":"c1"}],)"
           R"("tools":[{"type":"function","function":{"name":"f","a":1}}],)"
           R"("chat_template_kwargs":{"thinking":true},)"
           R"("add_generation_prompt":false})"));
  ASSERT_TRUE(request.ok()) << request.status();
  const auto& prompt = std::get<ChatPrompt>(request->generations[0].prompt);
  ASSERT_EQ(prompt.messages.size(), 4u);
  EXPECT_EQ(prompt.messages[1].content, "a\nb");
  EXPECT_EQ(prompt.messages[1].name, "bob");
  EXPECT_EQ(prompt.messages[2].reasoning_content, "r");
  ASSERT_EQ(prompt.messages[2].tool_calls.size(), 1u);
  EXPECT_EQ(prompt.messages[2].tool_calls[0].arguments, R"({"x":1})");
  EXPECT_EQ(prompt.messages[3].tool_call_id, "c1");
  // Members keep their order.
  EXPECT_EQ(prompt.tools_json,
            R"([{"type":"function","function":{"name":"f","a":1}}])");
  EXPECT_EQ(prompt.template_kwargs_json, R"({"thinking":true})");
  EXPECT_FALSE(prompt.add_generation_prompt);
}

TEST(OpenAiRequestTest, ReasoningEffortIsATemplateVariable) {
  const auto kwargs = [](const char* members) {
    const auto request = ParseChatRequest(Http(absl::StrCat(
        R"({"messages":[{"role":"user","content":"x"}],)", members, "}")));
    EXPECT_TRUE(request.ok()) << request.status();
    return std::get<ChatPrompt>(request->generations[0].prompt)
        .template_kwargs_json;
  };
  EXPECT_EQ(kwargs(R"("reasoning_effort":"max")"),
            R"({"reasoning_effort":"max"})");
  EXPECT_EQ(kwargs(R"("reasoning_effort":"low",)"
                   R"("chat_template_kwargs":{"reasoning_effort":"max"})"),
            R"({"reasoning_effort":"max"})");
  EXPECT_EQ(kwargs(R"("chat_template_kwargs":{})"), "");
}

TEST(OpenAiRequestTest, PromptsOfCompletions) {
  const auto text = Completion(R"("prompt":"x")");
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(text->generations[0].max_tokens, 16);
  EXPECT_EQ(std::get<std::string>(text->generations[0].prompt), "x");
  const auto ids = Completion(R"("prompt":[1,2],"logprobs":0)");
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->generations[0].sampling.logprobs, 0);
  EXPECT_THAT(std::get<std::vector<int32_t>>(ids->generations[0].prompt),
              ElementsAre(1, 2));
  const auto several = Completion(R"("prompt":["a",[3]],"stream":true)");
  ASSERT_TRUE(several.ok());
  ASSERT_EQ(several->generations.size(), 2u);
  EXPECT_EQ(several->generations[1].request_id, "rid-1");
}

struct BadCase {
  const char* members;
  const char* param;
};

void PrintTo(const BadCase& bad, std::ostream* out) { *out << bad.members; }

class BadChatTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadChatTest, NamesTheParameter) {
  const auto request = Chat(GetParam().members);
  ASSERT_TRUE(absl::IsInvalidArgument(request.status())) << request.status();
  EXPECT_EQ(ErrorParam(request.status()), GetParam().param);
  EXPECT_NE(ErrorCode(request.status()), "");
}

INSTANTIATE_TEST_SUITE_P(
    Values, BadChatTest,
    ::testing::Values(
        BadCase{R"("max_tokens":0)", "max_tokens"},
        BadCase{R"("max_tokens":-1)", "max_tokens"},
        BadCase{R"("max_tokens":9223372036854775808)", "max_tokens"},
        BadCase{R"("max_tokens":-9223372036854775808)", "max_tokens"},
        BadCase{R"("max_tokens":1.5)", "max_tokens"},
        BadCase{R"("max_tokens":"9")", "max_tokens"},
        BadCase{R"("max_completion_tokens":0)", "max_completion_tokens"},
        BadCase{R"("temperature":-0.1)", "temperature"},
        BadCase{R"("temperature":1e308)", "temperature"},
        BadCase{R"("temperature":"hot")", "temperature"},
        BadCase{R"("top_p":0)", "top_p"}, BadCase{R"("top_p":1.1)", "top_p"},
        BadCase{R"("top_k":-2)", "top_k"},
        BadCase{R"("top_k":2147483648)", "top_k"},
        BadCase{R"("min_p":2)", "min_p"},
        BadCase{R"("repetition_penalty":0)", "repetition_penalty"},
        BadCase{R"("presence_penalty":2.1)", "presence_penalty"},
        BadCase{R"("frequency_penalty":-3)", "frequency_penalty"},
        BadCase{R"("n":0)", "n"}, BadCase{R"("n":1000000000)", "n"},
        BadCase{R"("seed":18446744073709551616)", "seed"},
        BadCase{R"("seed":18446744073709551615)", "seed"},
        BadCase{R"("top_logprobs":21,"logprobs":true)", "top_logprobs"},
        BadCase{R"("top_logprobs":2)", "top_logprobs"},
        BadCase{R"("logprobs":5)", "logprobs"},
        BadCase{R"("prompt_logprobs":-1)", "prompt_logprobs"},
        BadCase{R"("prompt_logprobs":1,"stream":true)", "prompt_logprobs"},
        BadCase{R"("logit_bias":{"x":1})", "logit_bias"},
        BadCase{R"("logit_bias":{"-1":1})", "logit_bias"},
        BadCase{R"("logit_bias":{"1":101})", "logit_bias"},
        BadCase{R"("logit_bias":{"1":null})", "logit_bias"},
        BadCase{R"("logit_bias":[1])", "logit_bias"},
        BadCase{R"("stop":"")", "stop"}, BadCase{R"("stop":[1])", "stop"},
        BadCase{R"("stop_token_ids":[-1])", "stop_token_ids"},
        BadCase{R"("stop_token_ids":[1.5])", "stop_token_ids"},
        BadCase{R"("stream":1)", "stream"},
        BadCase{R"("stream_options":{"include_usage":true})", "stream_options"},
        BadCase{R"("stream":true,"stream_options":{"include_usage":1})",
                "stream_options.include_usage"},
        BadCase{R"("echo":true)", "echo"}, BadCase{R"("best_of":3)", "best_of"},
        BadCase{R"("response_format":{"type":"json_object"})",
                "response_format"},
        BadCase{R"("tools":[1])", "tools"}, BadCase{R"("tools":{})", "tools"},
        BadCase{R"("tool_choice":"required")", "tool_choice"},
        BadCase{R"("chat_template_kwargs":[])", "chat_template_kwargs"},
        BadCase{R"("model":7)", "model"},
        BadCase{R"("priority":2147483648)", "priority"}));

TEST(OpenAiRequestTest, ManyStopsAreRefused) {
  std::string stops;
  for (int i = 0; i < 100000; ++i) stops += i == 0 ? R"("a")" : R"(,"a")";
  EXPECT_EQ(ErrorParam(Chat("\"stop\":[" + stops + "]").status()), "stop");
}

TEST(OpenAiRequestTest, BadMessagesAreNamed) {
  const auto param = [](const std::string& messages) {
    const auto request =
        ParseChatRequest(Http(R"({"messages":)" + messages + "}"));
    EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << messages;
    return ErrorParam(request.status());
  };
  EXPECT_EQ(param("null"), "messages");
  EXPECT_EQ(param("[]"), "messages");
  EXPECT_EQ(param("{}"), "messages");
  EXPECT_EQ(param("[1]"), "messages[0]");
  EXPECT_EQ(param(R"([{"role":"boss","content":""}])"), "messages[0].role");
  EXPECT_EQ(param(R"([{"role":"user"}])"), "messages[0].content");
  EXPECT_EQ(param(R"([{"role":"user","content":7}])"), "messages[0].content");
  EXPECT_EQ(param(R"([{"role":"user","content":[{"type":"image_url",)"
                  R"("image_url":{"url":"http://h/"}}]}])"),
            "messages[0].content");
  EXPECT_EQ(param(R"([{"role":"assistant","tool_calls":[{"function":{}}]}])"),
            "messages[0].tool_calls[0].function.name");
}

TEST(OpenAiRequestTest, BadPromptsAreRefused) {
  for (const char* prompt :
       {"null", "7", "[]", "{}", "[-1]", "[[]]", "[1,\"a\"]", "[null]",
        "[2147483648]", "[[1],[1.5]]"}) {
    const auto request = Completion(R"("prompt":)" + std::string(prompt));
    if (std::string(prompt) == "[[]]") {
      EXPECT_TRUE(request.ok());  // the engine refuses an empty prompt
      continue;
    }
    EXPECT_EQ(ErrorParam(request.status()), "prompt") << prompt;
  }
  std::string many = "\"prompt\":[\"a\"";
  for (int i = 0; i < 64; ++i) many += ",\"a\"";
  EXPECT_EQ(ErrorParam(Completion(many + "],\"n\":2").status()), "n");
}

}  // namespace
}  // namespace shoal
