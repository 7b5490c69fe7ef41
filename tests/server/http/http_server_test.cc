// The listener over real sockets: framing, limits, keys, slow and broken peers.
#include "server/http/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "server/http/routes.h"
#include "tests/server/http/fake_generation.h"
#include "tests/server/http/raw_client.h"

namespace shoal {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kPath[] = "/v1/completions";

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    lifecycle_.Set(Lifecycle::State::kReady);
    service_.SetScript({Last("ok", 1)});
    options_.address = "127.0.0.1:0";
  }
  void StartServer() {
    auto server = HttpServer::Start(
        options_, MakeRoutes(service_, lifecycle_, metrics_), keys_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::string Ask(const std::string& bytes) {
    RawClient client(server_->address());
    client.Send(bytes);
    return client.ReadResponse();
  }
  void LoadKeys(const std::string& text) {
    const std::string path = ::testing::TempDir() + "/http_server_test_keys";
    std::ofstream(path) << text;
    chmod(path.c_str(), 0600);
    auto keys = ApiKeys::Load(path);
    std::remove(path.c_str());
    ASSERT_TRUE(keys.ok()) << keys.status();
    keys_ = *std::move(keys);
  }

  FakeService service_;
  Lifecycle lifecycle_;
  CountingMetrics metrics_;
  ApiKeys keys_;
  HttpServerOptions options_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, KeepsTheConnectionAndAnswersInOrder) {
  StartServer();
  RawClient client(server_->address());
  // Two requests in one write.
  client.Send(Get("/health") + Get("/version"));
  EXPECT_EQ(BodyOf(client.ReadResponse()), R"({"status":"ready"})");
  EXPECT_THAT(BodyOf(client.ReadResponse()), HasSubstr(R"({"version":")"));
  client.Send(Post(kPath, R"({"prompt":"x"})"));
  EXPECT_EQ(StatusOf(client.ReadResponse()), 200);
  EXPECT_EQ(server_->num_connections(), 1);
}

TEST_F(HttpServerTest, HeadOfAGetHasNoBody) {
  StartServer();
  RawClient client(server_->address());
  client.Send("HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n" + Get("/ready"));
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("Content-Length: 18"));
  EXPECT_EQ(BodyOf(client.ReadResponse()), R"({"status":"ready"})");
}

TEST_F(HttpServerTest, ReadinessFollowsTheLifecycle) {
  StartServer();
  lifecycle_.Set(Lifecycle::State::kDraining);
  EXPECT_EQ(StatusOf(Ask(Get("/health"))), 200);
  EXPECT_EQ(StatusOf(Ask(Get("/ready"))), 503);
  lifecycle_.Set(Lifecycle::State::kFailed);
  EXPECT_EQ(StatusOf(Ask(Get("/health"))), 503);
}

TEST_F(HttpServerTest, RefusesByStatus) {
  options_.max_body_bytes = 1000;
  StartServer();
  const std::string body = R"({"prompt":"x"})";
  EXPECT_EQ(StatusOf(Ask(Get("/nowhere"))), 404);
  const std::string wrong_method = Ask(Get(kPath));
  EXPECT_EQ(StatusOf(wrong_method), 405);
  EXPECT_THAT(wrong_method, HasSubstr("\r\nAllow: POST, OPTIONS\r\n"));
  EXPECT_EQ(StatusOf(Ask(Post(kPath, std::string(1001, ' ')))), 413);
  EXPECT_EQ(StatusOf(Ask("POST /tokenize HTTP/1.1\r\nHost: h\r\n"
                         "Content-Type: text/plain\r\n"
                         "Content-Length: 2\r\n\r\n{}")),
            415);
  EXPECT_EQ(StatusOf(Ask(Post(kPath, body, "Content-Encoding: gzip\r\n"))),
            415);
  EXPECT_EQ(
      StatusOf(Ask(Get("/health", "X: " + std::string(20000, 'a') + "\r\n"))),
      431);
  EXPECT_EQ(StatusOf(Ask("GET /health HTTP/1.1\r\n\r\n")), 400);
  EXPECT_EQ(StatusOf(Ask("no http at all\r\n\r\n")), 400);
  EXPECT_EQ(StatusOf(Ask(Get("/%2e%2e/etc/passwd"))), 400);
  EXPECT_EQ(StatusOf(Ask(Get("/%ff"))), 400);
  EXPECT_EQ(StatusOf(Ask(Post(kPath, body, "Expect: wonders\r\n"))), 417);
  // It serves on.
  EXPECT_EQ(StatusOf(Ask(Post(kPath, body))), 200);
}

TEST_F(HttpServerTest, TwoLengthsAreRefused) {
  StartServer();
  EXPECT_EQ(StatusOf(Ask("POST /tokenize HTTP/1.1\r\nHost: h\r\n"
                         "Content-Type: application/json\r\n"
                         "Content-Length: 2\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
            400);
}

TEST_F(HttpServerTest, ChunkedBodies) {
  StartServer();
  const std::string head =
      "POST /tokenize HTTP/1.1\r\nHost: h\r\n"
      "Content-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n";
  const std::string response =
      Ask(head + "8\r\n{\"prompt\r\n8\r\n\": \"ab\"}\r\n0\r\n\r\n");
  EXPECT_THAT(BodyOf(response), HasSubstr(R"("tokens":[1,97,98])"));
  std::string crumbs = head;
  for (int i = 0; i < 65537; ++i) crumbs += "1\r\n \r\n";
  EXPECT_EQ(StatusOf(Ask(crumbs + "0\r\n\r\n")), 400);
}

TEST_F(HttpServerTest, ExpectContinue) {
  StartServer();
  RawClient client(server_->address());
  const std::string request =
      Post(kPath, R"({"prompt":"x"})", "Expect: 100-continue\r\n");
  const size_t body = request.find("\r\n\r\n") + 4;
  client.Send(request.substr(0, body));
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("100 Continue"));
  client.Send(request.substr(body));
  EXPECT_EQ(StatusOf(client.ReadResponse()), 200);
}

TEST_F(HttpServerTest, KeysGuardAllButOpenRoutes) {
  LoadKeys("alice:right\n");
  StartServer();
  const std::string body = R"({"prompt":"x"})";
  const std::string refused = Ask(Post(kPath, body));
  EXPECT_EQ(StatusOf(refused), 401);
  EXPECT_THAT(refused, HasSubstr("WWW-Authenticate: Bearer"));
  EXPECT_EQ(StatusOf(Ask(Post(kPath, body, "Authorization: Bearer wrong\r\n"))),
            401);
  EXPECT_EQ(StatusOf(Ask(Post(kPath, body, "Authorization: Bearer right\r\n"))),
            200);
  EXPECT_EQ(service_.requests().back().tenant, "alice");
  const Router router = MakeRoutes(service_, lifecycle_, metrics_);
  for (const Route& route : router.routes()) {
    if (route.method != "GET") continue;
    const bool api = route.path.starts_with("/v1/");
    const std::string path =
        api && route.path.ends_with("*") ? "/v1/models/tiny" : route.path;
    EXPECT_EQ(StatusOf(Ask(Get(path))), api ? 401 : 200) << route.path;
  }
}

TEST_F(HttpServerTest, SlowRequestsEndInTime) {
  options_.request_timeout = absl::Milliseconds(200);
  StartServer();
  const std::string request = Post(kPath, R"({"prompt":"x"})");
  for (const size_t sent : {size_t{10}, request.size() - 3}) {
    RawClient client(server_->address());
    client.Send(request.substr(0, sent));
    const absl::Time start = absl::Now();
    EXPECT_EQ(StatusOf(client.ReadAll()), 408) << sent;
    EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  }
  EXPECT_TRUE(service_.requests().empty());
}

TEST_F(HttpServerTest, IdleConnectionsAreClosed) {
  options_.idle_timeout = absl::Milliseconds(100);
  StartServer();
  RawClient client(server_->address());
  EXPECT_EQ(client.ReadAll(), "");
}

TEST_F(HttpServerTest, HalfARequestIsDropped) {
  StartServer();
  RawClient client(server_->address());
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Le");
  client.FinishSending();
  EXPECT_THAT(StatusOf(client.ReadAll()), AnyOf(0, 400));
  EXPECT_TRUE(service_.requests().empty());
}

TEST_F(HttpServerTest, AReaderWhoStopsReadingIsGivenUp) {
  options_.write_timeout = absl::Milliseconds(300);
  StartServer();
  RawClient client(server_->address());
  client.Send(Post(kPath, R"({"prompt":"x","stream":true,"n":2})"));
  auto feed = service_.Feed(0);
  const std::string text(64 << 10, 'a');
  for (int i = 0; i < 400; ++i) feed->Put(Delta(text, i, 1));
  EXPECT_TRUE(feed->AwaitCancelled(absl::Seconds(10)));
}

TEST_F(HttpServerTest, AFullHouseServesOpenRoutesOnly) {
  options_.max_connections = 4;
  StartServer();
  std::vector<std::unique_ptr<RawClient>> guests;
  for (int i = 0; i < 4; ++i) {
    guests.push_back(std::make_unique<RawClient>(server_->address()));
    guests.back()->Send(Get("/health"));
    EXPECT_EQ(StatusOf(guests.back()->ReadResponse()), 200);
  }
  EXPECT_EQ(StatusOf(Ask(Get("/health"))), 200);
  const std::string refused = Ask(Post(kPath, R"({"prompt":"x"})"));
  EXPECT_EQ(StatusOf(refused), 503);
  EXPECT_THAT(refused, HasSubstr("Retry-After: 1"));
}

TEST_F(HttpServerTest, OtherOriginsNeedLeave) {
  options_.cors_allowed_origins = {"https://good.example"};
  StartServer();
  EXPECT_THAT(
      Ask(Get("/v1/models", "Origin: https://good.example\r\n")),
      HasSubstr("Access-Control-Allow-Origin: https://good.example\r\n"));
  EXPECT_THAT(Ask(Get("/v1/models", "Origin: https://bad.example\r\n")),
              Not(HasSubstr("Access-Control")));
}

TEST_F(HttpServerTest, PageCarriesItsPolicyAndIsCached) {
  StartServer();
  const std::string page = Ask(Get("/"));
  EXPECT_THAT(page, HasSubstr("Content-Type: text/html; charset=utf-8\r\n"));
  EXPECT_THAT(
      page,
      HasSubstr("Content-Security-Policy: default-src 'none'; script-src "
                "'self'; style-src 'self'; connect-src 'self'; img-src 'self' "
                "data:; base-uri 'none'; frame-ancestors 'none'; form-action "
                "'none'\r\n"));
  const size_t at = page.find("ETag: ") + 6;
  const std::string tag = page.substr(at, page.find("\r\n", at) - at);
  EXPECT_EQ(StatusOf(Ask(Get("/", "If-None-Match: " + tag + "\r\n"))), 304);
  EXPECT_EQ(StatusOf(Ask(Get("/chat.js"))), 200);
}

TEST_F(HttpServerTest, ModelsAndTokens) {
  StartServer();
  EXPECT_EQ(
      BodyOf(Ask(Get("/v1/models/org/tiny"))),
      R"({"id":"org/tiny","object":"model","created":1600000000,)"
      R"("owned_by":"shoal","root":"tiny","parent":null,"max_model_len":64})");
  EXPECT_EQ(StatusOf(Ask(Get("/v1/models/other"))), 404);
  EXPECT_EQ(
      BodyOf(Ask(Post("/tokenize",
                      R"({"messages":[{"role":"user","content":"a"}]})"))),
      R"({"count":2,"max_model_len":64,"tokens":[97,124],"token_strs":null})");
  EXPECT_EQ(BodyOf(Ask(Post("/detokenize", R"({"tokens":[104,105]})"))),
            R"({"prompt":"hi"})");
  EXPECT_EQ(StatusOf(Ask(Post("/detokenize", R"({"tokens":[256]})"))), 400);
  EXPECT_EQ(
      StatusOf(Ask(Post("/tokenize", R"({"model":"other","prompt":"a"})"))),
      404);
}

TEST_F(HttpServerTest, StoppingClosesIdleConnectionsAndThePort) {
  StartServer();
  RawClient idle(server_->address());
  idle.Send(Get("/health"));
  idle.ReadResponse();
  service_.SetScript({});
  RawClient running(server_->address());
  running.Send(Post(kPath, R"({"prompt":"x"})"));
  auto feed = service_.Feed(0);
  server_->StopAccepting();
  EXPECT_EQ(idle.ReadAll(), "");
  feed->Put(Last("late", 1));
  const std::string response = running.ReadAll();
  EXPECT_THAT(response, HasSubstr(R"("text":"late")"));
  EXPECT_THAT(response, HasSubstr("Connection: close"));
}

TEST_F(HttpServerTest, StartNamesWhatIsWrong) {
  StartServer();
  options_.address = server_->address();
  auto second = HttpServer::Start(
      options_, MakeRoutes(service_, lifecycle_, metrics_), keys_);
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(options_.address));
  options_.address = "127.0.0.1";
  EXPECT_TRUE(absl::IsInvalidArgument(
      HttpServer::Start(options_, MakeRoutes(service_, lifecycle_, metrics_),
                        keys_)
          .status()));
}

}  // namespace
}  // namespace shoal
