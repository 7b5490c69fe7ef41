// The generation endpoints over a real socket, byte for byte.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "server/http/http_server.h"
#include "server/http/routes.h"
#include "tests/server/http/fake_generation.h"
#include "tests/server/http/raw_client.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kChat[] = "/v1/chat/completions";
constexpr char kCompletions[] = "/v1/completions";
constexpr char kHello[] = R"("messages":[{"role":"user","content":"Hi"}])";

std::string Body(const std::string& members) { return "{" + members + "}"; }

class OpenAiReplyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    lifecycle_.Set(Lifecycle::State::kReady);
    HttpServerOptions options;
    options.address = "127.0.0.1:0";
    auto server = HttpServer::Start(
        options, MakeRoutes(service_, lifecycle_, metrics_), keys_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::string Ask(const char* path, const std::string& members) {
    RawClient client(server_->address());
    client.Send(Post(path, Body(members), "Connection: close\r\n"));
    return client.ReadAll();
  }

  FakeService service_;
  Lifecycle lifecycle_;
  CountingMetrics metrics_;
  ApiKeys keys_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(OpenAiReplyTest, ChatStreamByteForByte) {
  service_.SetScript({Delta("Hel", 1), Delta("", 2), Last("lo", 3)});
  const std::string response =
      Ask(kChat, std::string(kHello) + R"(,"stream":true)");
  EXPECT_EQ(StatusOf(response), 200);
  EXPECT_THAT(response, HasSubstr("Content-Type: text/event-stream"));
  const std::string begin =
      R"(data: {"id":"chatcmpl-id1","object":"chat.completion.chunk",)"
      R"("created":1700000000,"model":"tiny","choices":[{"index":0,)";
  EXPECT_EQ(BodyOf(response),
            begin +
                R"("delta":{"role":"assistant","content":""},"logprobs":null,)"
                R"("finish_reason":null}]})"
                "\n\n" +
                begin +
                R"("delta":{"content":"Hel"},"logprobs":null,)"
                R"("finish_reason":null}]})"
                "\n\n" +
                begin +
                R"("delta":{"content":"lo"},"logprobs":null,)"
                R"("finish_reason":"stop","stop_reason":null}]})"
                "\n\ndata: [DONE]\n\n");
}

TEST_F(OpenAiReplyTest, CompletionStreamWithUsageByteForByte) {
  GenerationDelta last = Last("", 2, FinishReason::kStop);
  last.matched_stop = "END";
  service_.SetScript({Delta("a", 1), last});
  const std::string response = Ask(
      kCompletions,
      R"("prompt":"x","stream":true,"stream_options":{"include_usage":true})");
  const std::string begin =
      R"(data: {"id":"cmpl-id1","object":"text_completion",)"
      R"("created":1700000000,"model":"tiny","choices":[)";
  EXPECT_EQ(
      BodyOf(response),
      begin +
          R"({"index":0,"text":"a","logprobs":null,"finish_reason":null}],)"
          R"("usage":null})"
          "\n\n" +
          begin +
          R"({"index":0,"text":"","logprobs":null,"finish_reason":"stop",)"
          R"("stop_reason":"END"}],"usage":null})"
          "\n\n" +
          begin +
          R"(],"usage":{"prompt_tokens":5,"total_tokens":7,)"
          R"("completion_tokens":2,)"
          R"("prompt_tokens_details":{"cached_tokens":2}}})"
          "\n\ndata: [DONE]\n\n");
}

TEST_F(OpenAiReplyTest, EventsArriveAsTheyAreMade) {
  RawClient client(server_->address());
  client.Send(Post(kCompletions, R"({"prompt":"x","stream":true})"));
  auto feed = service_.Feed(0);
  feed->Put(Delta("one", 1));
  EXPECT_THAT(client.ReadUntil("\n\n"), HasSubstr(R"("text":"one")"));
  feed->Put(Delta("two", 2));
  EXPECT_THAT(client.ReadUntil("\n\n"), HasSubstr(R"("text":"two")"));
  feed->Put(Last("", 2));
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"), HasSubstr("data: [DONE]\n\n"));
  // The connection serves on.
  client.Send(Get("/version"));
  EXPECT_EQ(StatusOf(client.ReadResponse()), 200);
}

TEST_F(OpenAiReplyTest, WholeChatByteForByte) {
  GenerationDelta thought = Delta("hm", 1);
  thought.kind = GenerationDelta::Kind::kReasoning;
  service_.SetScript(
      {thought, Delta("Hel", 2), Last("lo", 3, FinishReason::kLength)});
  EXPECT_EQ(
      BodyOf(Ask(kChat, kHello)),
      R"({"id":"chatcmpl-id1","object":"chat.completion",)"
      R"("created":1700000000,"model":"tiny","choices":[{"index":0,)"
      R"("message":{"role":"assistant","content":"Hello",)"
      R"("reasoning_content":"hm"},"logprobs":null,)"
      R"("finish_reason":"length","stop_reason":null}],)"
      R"("usage":{"prompt_tokens":5,"total_tokens":8,"completion_tokens":3,)"
      R"("prompt_tokens_details":{"cached_tokens":2}}})");
}

TEST_F(OpenAiReplyTest, SeveralSequencesAndPrompts) {
  service_.SetScript({Delta("a", 1, 0), Last("x", 2, FinishReason::kStop, 1),
                      Last("b", 2, FinishReason::kStop, 0)});
  const std::string body =
      BodyOf(Ask(kCompletions, R"("prompt":["p",[7,8]],"n":2)"));
  EXPECT_THAT(body, HasSubstr(R"({"index":0,"text":"ab")"));
  EXPECT_THAT(body, HasSubstr(R"({"index":1,"text":"x")"));
  EXPECT_THAT(body, HasSubstr(R"({"index":2,"text":"ab")"));
  EXPECT_THAT(body, HasSubstr(R"({"index":3,"text":"x")"));
  EXPECT_THAT(body, HasSubstr(R"("completion_tokens":8)"));
  EXPECT_EQ(service_.requests().size(), 2u);
}

TEST_F(OpenAiReplyTest, ToolCalls) {
  GenerationDelta call = Delta("", 1);
  call.kind = GenerationDelta::Kind::kToolCall;
  call.tool_call_id = "call_1";
  call.tool_name = "look";
  GenerationDelta arguments = Delta(R"({"a":1})", 2);
  arguments.kind = GenerationDelta::Kind::kToolCall;
  service_.SetScript({call, arguments, Last("", 3)});
  EXPECT_THAT(BodyOf(Ask(kChat, kHello)),
              HasSubstr(R"("content":null,"tool_calls":[{"id":"call_1",)"
                        R"("type":"function","function":{"name":"look",)"
                        R"("arguments":"{\"a\":1}"}}]},"logprobs":null,)"
                        R"("finish_reason":"tool_calls")"));
  const std::string stream =
      BodyOf(Ask(kChat, std::string(kHello) + R"(,"stream":true)"));
  EXPECT_THAT(stream,
              HasSubstr(R"("delta":{"tool_calls":[{"index":0,"id":"call_1",)"
                        R"("type":"function","function":{"name":"look",)"
                        R"("arguments":""}}]})"));
  EXPECT_THAT(stream, HasSubstr(R"("delta":{"tool_calls":[{"index":0,)"
                                R"("function":{"arguments":"{\"a\":1}"}}]})"));
  EXPECT_THAT(stream, HasSubstr(R"("finish_reason":"tool_calls")"));
}

TEST_F(OpenAiReplyTest, Logprobs) {
  GenerationDelta last = Last("h", 1);
  last.logprobs = {{.chosen = {"h", "h", 104, -0.5f, 1},
                    .top = {{"h", "h", 104, -0.5f, 1},
                            {"\xef\xbf\xbd", "\xff", 255,
                             -std::numeric_limits<float>::infinity(), 2}}}};
  last.prompt_logprobs = {{.chosen = {"b", "b", 98, -1.5f, 3}, .top = {}}};
  service_.SetScript({last});
  EXPECT_THAT(BodyOf(Ask(kChat, std::string(kHello) +
                                    R"(,"logprobs":true,"top_logprobs":2)")),
              HasSubstr(R"("logprobs":{"content":[{"token":"h","logprob":-0.5,)"
                        R"("bytes":[104],"top_logprobs":[{"token":"h",)"
                        R"("logprob":-0.5,"bytes":[104]},{"token":")"
                        "\xef\xbf\xbd"
                        R"(","logprob":-9999.0,"bytes":[255]}]}]})"));
  const std::string whole = BodyOf(
      Ask(kCompletions, R"("prompt":"ab","logprobs":2,"prompt_logprobs":0)"));
  EXPECT_THAT(whole, HasSubstr(R"("logprobs":{"text_offset":[0],)"
                               R"("token_logprobs":[-0.5],"tokens":["h"],)"
                               R"("top_logprobs":[{"h":-0.5,)"));
  EXPECT_THAT(whole, HasSubstr(R"("prompt_logprobs":[null,{"98":{)"
                               R"("logprob":-1.5,"rank":3,)"
                               R"("decoded_token":"b"}}])"));
}

TEST_F(OpenAiReplyTest, PromptLogprobsAreGatheredUpToALimit) {
  const TextLogprob token = {"b", "b", 98, -1.5f, 3};
  GenerationDelta some = Delta("", 0);
  some.prompt_logprobs.assign(2, {.chosen = token, .top = {}});
  service_.SetScript({some, some, Last("h", 1)});
  const std::string ask = R"("prompt":"abcde","prompt_logprobs":0)";
  const std::string whole = BodyOf(Ask(kCompletions, ask));
  size_t count = 0;
  for (size_t at = 0; (at = whole.find("decoded_token", at)) != whole.npos;) {
    ++count, ++at;
  }
  EXPECT_EQ(count, 4u);

  some.prompt_logprobs.assign(
      60000, {.chosen = token, .top = std::vector<TextLogprob>(20, token)});
  service_.SetScript({some, Last("h", 1)});
  const std::string response = Ask(kCompletions, ask);
  EXPECT_EQ(StatusOf(response), 400);
  EXPECT_THAT(response, HasSubstr(R"("code":"too_many_logprobs")"));
}

TEST_F(OpenAiReplyTest, FailureBeforeTheFirstByteIsAStatus) {
  GenerationDelta late = Last("", 0, FinishReason::kDeadline);
  service_.SetScript({late});
  const std::string response =
      Ask(kChat, std::string(kHello) + R"(,"stream":true)");
  EXPECT_EQ(StatusOf(response), 504);
  EXPECT_THAT(response, HasSubstr(R"("type":"timeout_error")"));
}

TEST_F(OpenAiReplyTest, FailureAfterTheFirstByteIsAnEvent) {
  GenerationDelta broken = Last("", 1, FinishReason::kError);
  broken.status = absl::InternalError("secret of the inside");
  service_.SetScript({Delta("a", 1), broken});
  const std::string body =
      BodyOf(Ask(kCompletions, R"("prompt":"x","stream":true)"));
  EXPECT_THAT(body, HasSubstr(R"(data: {"error":{"message":"Internal error)"));
  EXPECT_THAT(body, Not(HasSubstr("secret")));
  EXPECT_THAT(body, Not(HasSubstr(R"("finish_reason":")")));
  EXPECT_EQ(StatusOf(Ask(kCompletions, R"("prompt":"x")")), 500);
}

TEST_F(OpenAiReplyTest, RefusalOfTheServiceKeepsItsDetail) {
  service_.Refuse(WithRetryAfter(
      WithDetail(absl::ResourceExhaustedError("The queue is full"), "",
                 "queue_full"),
      absl::Milliseconds(1500)));
  const std::string response = Ask(kChat, kHello);
  EXPECT_EQ(StatusOf(response), 429);
  EXPECT_THAT(response, HasSubstr("\r\nRetry-After: 2\r\n"));
  EXPECT_EQ(BodyOf(response),
            R"({"error":{"message":"The queue is full",)"
            R"("type":"rate_limit_error","param":null,"code":"queue_full"}})");
  // The service counted it.
  EXPECT_EQ(metrics_.received, 0);
}

TEST_F(OpenAiReplyTest, RefusedBodiesAreCountedOnce) {
  EXPECT_EQ(StatusOf(Ask(kChat, R"("messages":[])")), 400);
  EXPECT_EQ(StatusOf(Ask(kCompletions, R"("prompt":"x","n":1000000000)")), 400);
  EXPECT_EQ(metrics_.received, 2);
  EXPECT_EQ(metrics_.rejected, 2);
  EXPECT_TRUE(service_.requests().empty());
}

TEST_F(OpenAiReplyTest, DrainingRefusesNewRequests) {
  lifecycle_.Set(Lifecycle::State::kDraining);
  const std::string response = Ask(kChat, kHello);
  EXPECT_EQ(StatusOf(response), 503);
  EXPECT_THAT(response, HasSubstr(R"("code":"draining")"));
  EXPECT_THAT(response, HasSubstr("Retry-After: 1"));
  EXPECT_EQ(metrics_.rejected, 1);
}

TEST_F(OpenAiReplyTest, LeavingClientCancels) {
  for (const char* stream : {"true", "false"}) {
    const size_t index = service_.requests().size();
    auto client = std::make_unique<RawClient>(server_->address());
    client->Send(Post(kCompletions,
                      Body(absl::StrCat(R"("prompt":"x","stream":)", stream))));
    auto feed = service_.Feed(index);
    client.reset();
    EXPECT_TRUE(feed->AwaitCancelled(absl::Seconds(5))) << stream;
  }
}

TEST_F(OpenAiReplyTest, ShutdownCutsRunningStreams) {
  RawClient client(server_->address());
  client.Send(Post(kCompletions, R"({"prompt":"x","stream":true})"));
  auto feed = service_.Feed(0);
  feed->Put(Delta("a", 1));
  client.ReadUntil("\n\n");
  server_->Shutdown();
  EXPECT_TRUE(feed->AwaitCancelled(absl::Seconds(5)));
  EXPECT_THAT(client.ReadAll(), Not(HasSubstr("[DONE]")));
}

}  // namespace
}  // namespace shoal
