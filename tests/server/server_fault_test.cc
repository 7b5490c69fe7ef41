// A whole server in a process of its own, on a device that fails.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "server/server.h"
#include "tests/engine/checked_table.h"
#include "tests/engine/golden_model.h"
#include "tests/server/http/raw_client.h"

namespace shoal {
namespace {

// Some dozens of tokens of two requests.
constexpr int64_t kOpsUntilFault = 4000;

// A port that nothing listens on.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

std::unique_ptr<KernelTable> FailingTable() {
  std::unique_ptr<KernelTable> table =
      TestTable(RunnableIsas().back(), /*checked=*/true).Make();
  static_cast<CheckedTable&>(*table).FailAfter(kOpsUntilFault);
  return table;
}

[[noreturn]] void ServeUntilTheFault(const std::string& http_address) {
  std::freopen("/dev/null", "w", stdout);
  ServeOptions options;
  options.model.path = GoldenPath("real/psalm-moe");
  options.model.make_kernels = FailingTable;
  options.http_address = http_address;
  options.grpc_address = "127.0.0.1:0";
  options.engine.kv_cache_bytes = 1 << 22;
  options.engine.max_num_seqs = 8;
  _exit(RunServer(options).ok() ? 0 : 1);
}

class ServerFaultTest : public testing::Test {
 protected:
  void SetUp() override {
    address_ = absl::StrCat("127.0.0.1:", FreePort());
    server_ = fork();
    ASSERT_GE(server_, 0);
    if (server_ == 0) ServeUntilTheFault(address_);
  }
  void TearDown() override {
    if (server_ > 0) {
      kill(server_, SIGKILL);
      waitpid(server_, nullptr, 0);
    }
  }

  // The answer of /ready; 0 where there is none.
  int Ready() const {
    RawClient client(address_);
    if (!client.connected() || !client.Send(Get("/ready"))) return 0;
    return StatusOf(client.ReadResponse());
  }
  // Whether `reached` comes true before `limit` has passed.
  template <typename Condition>
  static bool Within(absl::Duration limit, const Condition& reached) {
    const absl::Time end = absl::Now() + limit;
    while (!reached()) {
      if (absl::Now() >= end) return false;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return true;
  }

  std::string address_;
  pid_t server_ = -1;
};

TEST_F(ServerFaultTest, StreamsEndReadinessGoesAndTheProcessFails) {
  ASSERT_TRUE(Within(absl::Seconds(60), [&] { return Ready() == 200; }));
  RawClient first(address_), second(address_);
  for (RawClient* client : {&first, &second}) {
    ASSERT_TRUE(client->Send(
        Post("/v1/completions",
             R"({"model":"psalm-moe","prompt":"The LORD is","stream":true,)"
             R"("max_tokens":200,"ignore_eos":true})")));
  }
  EXPECT_EQ(StatusOf(first.ReadUntil("\r\n\r\n")), 200);
  const std::string text = first.ReadUntil("\"error\"");
  EXPECT_NE(text.find("\"choices\""), std::string::npos);  // it had begun
  EXPECT_NE(text.find("\"error\""), std::string::npos);
  const absl::Time told = absl::Now();
  EXPECT_NE(second.ReadUntil("\"error\"").find("\"error\""), std::string::npos);
  EXPECT_LT(absl::Now() - told, absl::Seconds(1));
  EXPECT_TRUE(Within(absl::Seconds(1), [&] { return Ready() != 200; }));
  int status = 0;
  ASSERT_TRUE(Within(absl::Seconds(10), [&] {
    return waitpid(server_, &status, WNOHANG) == server_;
  }));
  server_ = -1;
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

}  // namespace
}  // namespace shoal
