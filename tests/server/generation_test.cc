// The generation service over an engine that says what a test wrote: typed
// deltas, and what they carry besides text.

#include "server/generation.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/http/fake_generation.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Kind = GenerationDelta::Kind;

// A byte is a token, a chat the contents of its messages.
class ChatText : public FakeText {
 public:
  ChatText() { syntax_.think_tags = syntax_.tool_blocks = true; }
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const ChatTemplateInput&) const override {
    return Encode(prompt, false);
  }
  const CompletionSyntax& completion_syntax() const override { return syntax_; }
  std::string prompt = "<think>";

 private:
  CompletionSyntax syntax_;
};

class ScriptedEngine : public Engine {
 public:
  absl::StatusOr<std::unique_ptr<EngineStream>> Submit(
      EngineRequest request) override {
    requests.push_back(std::move(request));
    return std::make_unique<Stream>(*this);
  }
  void StartDrain() override {}
  bool AwaitIdle(absl::Time) override { return true; }
  void CancelAll() override {}
  EngineSnapshot Snapshot() const override {
    EngineSnapshot snapshot;
    snapshot.max_model_len = 4096;
    snapshot.max_num_seqs = 4;
    return snapshot;
  }
  const ModelConfig& config() const override { return config_; }

  // Adds one event of `text` as tokens.
  TokenEvent& Say(const std::string& text) {
    TokenEvent& event = script.emplace_back();
    for (unsigned char c : text) event.token_ids.push_back(c);
    return event;
  }
  void End(FinishReason reason) { script.back().finish_reason = reason; }

  std::deque<TokenEvent> script;
  std::vector<EngineRequest> requests;
  std::vector<int32_t> finished;

 private:
  class Stream : public EngineStream {
   public:
    explicit Stream(ScriptedEngine& engine) : engine_(engine) {}
    std::optional<TokenEvent> TryNext() override {
      if (engine_.script.empty()) return std::nullopt;
      TokenEvent event = std::move(engine_.script.front());
      engine_.script.pop_front();
      return event;
    }
    bool done() const override { return engine_.script.empty(); }
    void SetNotify(std::function<void()>) override {}
    void Cancel() override {}
    void Finish(int32_t index) override { engine_.finished.push_back(index); }

   private:
    ScriptedEngine& engine_;
  };
  ModelConfig config_;
};

class GenerationTest : public ::testing::Test {
 protected:
  GenerationTest() {
    info_.served_names = {"m"};
    service_ = MakeGenerationService(engine_, text_, info_, nullptr);
  }

  static GenerationRequest Chat() {
    GenerationRequest request;
    ChatPrompt chat;
    chat.messages.push_back({.role = "user",
                             .content = "hi",
                             .name = "",
                             .reasoning_content = "",
                             .tool_call_id = "",
                             .tool_calls = {}});
    chat.tools_json = R"([{"name":"f"}])";
    request.prompt = std::move(chat);
    return request;
  }
  std::vector<GenerationDelta> Take(GenerationRequest request) {
    auto generation = service_->Start(std::move(request));
    EXPECT_TRUE(generation.ok()) << generation.status();
    std::vector<GenerationDelta> deltas;
    while (auto delta = (*generation)->TryNext()) {
      deltas.push_back(*std::move(delta));
      EXPECT_EQ((*generation)->done(), deltas.back().finish_reason.has_value());
    }
    return deltas;
  }

  ChatText text_;
  ScriptedEngine engine_;
  ModelInfo info_;
  std::unique_ptr<GenerationService> service_;
};

TEST_F(GenerationTest, AnEventOfSeveralKindsBecomesSeveralDeltas) {
  TokenEvent& event = engine_.Say(
      "why</think>so<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"
      "{\"a\":");
  event.num_cached_tokens = 3;
  event.logprobs.resize(event.token_ids.size());
  const size_t num_tokens = event.token_ids.size();
  engine_.Say(" 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  engine_.End(FinishReason::kStop);
  const auto deltas = Take(Chat());
  ASSERT_EQ(deltas.size(), 4u);
  EXPECT_EQ(deltas[0].kind, Kind::kReasoning);
  EXPECT_EQ(deltas[0].text, "why");
  EXPECT_EQ(deltas[0].token_ids.size(), num_tokens);
  EXPECT_EQ(deltas[0].logprobs.size(), num_tokens);
  EXPECT_EQ(deltas[1].kind, Kind::kContent);
  EXPECT_EQ(deltas[1].text, "so");
  EXPECT_THAT(deltas[1].token_ids, IsEmpty());
  EXPECT_EQ(deltas[1].usage.cached_tokens, 3);
  EXPECT_EQ(deltas[2].kind, Kind::kToolCall);
  EXPECT_EQ(deltas[2].tool_name, "f");
  EXPECT_THAT(deltas[2].tool_call_id, StartsWith("call_"));
  EXPECT_EQ(deltas[2].text, "{\"a\":");
  EXPECT_FALSE(deltas[2].finish_reason.has_value());
  EXPECT_EQ(deltas[3].tool_name, "");
  EXPECT_EQ(deltas[3].text, " 1}");
  EXPECT_EQ(deltas[3].finish_reason, FinishReason::kStop);
}

TEST_F(GenerationTest, PromptLogprobsComeInDeltasThatFitAMessage) {
  text_.prompt = "</think>";
  PositionLogprobs position;
  position.top.resize(20000);
  engine_.Say("").prompt_logprobs.assign(4, position);
  engine_.Say("a").prompt_logprobs.assign(1, position);
  engine_.Say("b");
  engine_.End(FinishReason::kLength);
  const auto deltas = Take(Chat());
  ASSERT_EQ(deltas.size(), 5u);
  EXPECT_EQ(deltas[0].prompt_logprobs.size(), 3u);
  EXPECT_EQ(deltas[1].prompt_logprobs.size(), 1u);
  EXPECT_EQ(deltas[2].prompt_logprobs.size(), 1u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(deltas[i].text, "");
    EXPECT_THAT(deltas[i].token_ids, IsEmpty());
  }
  EXPECT_EQ(deltas[3].text, "a");
  EXPECT_THAT(deltas[3].prompt_logprobs, IsEmpty());
  EXPECT_EQ(deltas[4].usage.completion_tokens, 2);
}

TEST_F(GenerationTest, ParsingNeedsAChatAndTools) {
  const std::string said = "a</think><｜DSML｜tool_calls>";
  GenerationRequest plain;
  plain.prompt = std::string("<think>");
  engine_.Say(said);
  engine_.End(FinishReason::kLength);
  auto deltas = Take(std::move(plain));
  ASSERT_EQ(deltas.size(), 1u);
  EXPECT_EQ(deltas[0].text, said);

  GenerationRequest chat = Chat();
  std::get<ChatPrompt>(chat.prompt).tools_json.clear();
  engine_.Say(said);
  engine_.End(FinishReason::kLength);
  deltas = Take(std::move(chat));
  ASSERT_EQ(deltas.size(), 2u);
  EXPECT_EQ(deltas[0].kind, Kind::kReasoning);
  EXPECT_EQ(deltas[1].text, "<｜DSML｜tool_calls>");
}

TEST_F(GenerationTest, HeldBackTextStillReportsItsTokens) {
  engine_.Say("</thi");
  engine_.Say("nk>ok");
  engine_.End(FinishReason::kStop);
  const auto deltas = Take(Chat());
  ASSERT_EQ(deltas.size(), 2u);
  EXPECT_EQ(deltas[0].text, "");
  EXPECT_EQ(deltas[0].token_ids.size(), 5u);
  EXPECT_EQ(deltas[1].text, "ok");
}

TEST_F(GenerationTest, StopStringsEndContent) {
  GenerationRequest request = Chat();
  request.stop = {"END"};
  engine_.Say("END</think>a");
  engine_.Say("bEND of it");
  engine_.Say("more");
  engine_.End(FinishReason::kLength);
  const auto deltas = Take(std::move(request));
  ASSERT_EQ(deltas.size(), 3u);
  EXPECT_EQ(deltas[0].text, "END");
  EXPECT_EQ(deltas[2].text, "b");
  EXPECT_EQ(deltas[2].token_ids.size(), 4u);
  EXPECT_EQ(deltas[2].finish_reason, FinishReason::kStop);
  EXPECT_EQ(deltas[2].matched_stop, "END");
  EXPECT_EQ(deltas[2].usage.completion_tokens, 16);
  EXPECT_THAT(engine_.finished, ElementsAre(0));
}

TEST_F(GenerationTest, AStopStringAtTheVeryEndMatches) {
  GenerationRequest request = Chat();
  request.stop = {"ab", "abcd"};
  text_.prompt = "</think>";
  engine_.Say("xabc");
  engine_.End(FinishReason::kLength);
  const auto deltas = Take(std::move(request));
  ASSERT_EQ(deltas.size(), 1u);
  EXPECT_EQ(deltas[0].text, "x");
  EXPECT_EQ(deltas[0].matched_stop, "ab");
  EXPECT_EQ(deltas[0].finish_reason, FinishReason::kStop);
}

TEST_F(GenerationTest, ArgumentsNestedTooDeeplyAreRefused) {
  GenerationRequest request = Chat();
  ChatMessage& message = std::get<ChatPrompt>(request.prompt).messages[0];
  message.role = "assistant";
  message.tool_calls.push_back({"1", "f", "{\"a\":" + std::string(9999, '[')});
  EXPECT_EQ(service_->Start(std::move(request)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(GenerationTest, FaultsKeepTheirReason) {
  engine_.Say("a</think>b<");
  engine_.Say("");
  engine_.End(FinishReason::kError);
  engine_.script.back().status = absl::InternalError("broken");
  const auto deltas = Take(Chat());
  ASSERT_EQ(deltas.size(), 3u);
  EXPECT_EQ(deltas[2].text, "<");
  EXPECT_EQ(deltas[2].finish_reason, FinishReason::kError);
  EXPECT_EQ(deltas[2].status, absl::InternalError("broken"));
}

}  // namespace
}  // namespace shoal
