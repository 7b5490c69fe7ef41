#include "server/http/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "server/errors.h"
#include "server/http/admission.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

Reply Nothing(const HttpRequest&) { return HttpResponse(); }

Router TestRouter() {
  return Router({{"GET", "/open", Access::kOpen, RunOn::kIo, Nothing},
                 {"POST", "/say", Access::kKey, RunOn::kWorker, Nothing},
                 {"GET", "/things/*", Access::kKey, RunOn::kIo, Nothing}});
}

RequestHead Head(const std::string& method, const std::string& target) {
  RequestHead head;
  head.method = method;
  head.target = target;
  head.content_type = "application/json";
  return head;
}

Admission Admitted(const RequestHead& head, bool open_only = false) {
  static const Router router = TestRouter();
  static const ApiKeys keys;
  static const HttpServerOptions options;
  return Admit(head, router, keys, options, open_only);
}

int Refused(const RequestHead& head, bool open_only = false) {
  const Admission admission = Admitted(head, open_only);
  EXPECT_EQ(admission.route == nullptr, admission.answer.has_value());
  return admission.answer ? admission.answer->status : 0;
}

TEST(RouterTest, FindsByMethodAndPath) {
  const Router router = TestRouter();
  EXPECT_EQ(router.Find("GET", "/open")->route->path, "/open");
  EXPECT_EQ(router.Find("HEAD", "/open")->route->path, "/open");
  EXPECT_EQ(router.Find("GET", "/things/a/b")->tail, "a/b");
  EXPECT_TRUE(absl::IsNotFound(router.Find("GET", "/things/").status()));
  EXPECT_TRUE(absl::IsNotFound(router.Find("GET", "/open/").status()));
  EXPECT_TRUE(absl::IsUnimplemented(router.Find("HEAD", "/say").status()));
  EXPECT_EQ(router.Allow("/open"), "GET, HEAD, OPTIONS");
  EXPECT_THAT(router.Allow("/nowhere"), IsEmpty());
}

TEST(RouterTest, ThrownExceptionIsA500WithoutItsText) {
  const Route route = {
      "GET", "/", Access::kOpen, RunOn::kIo,
      [](const HttpRequest&) -> Reply { throw std::runtime_error("inside"); }};
  const Reply reply = RunHandler(route, HttpRequest());
  EXPECT_EQ(reply.response.status, 500);
  EXPECT_EQ(reply.response.body.find("inside"), std::string::npos);
}

TEST(AdmissionTest, TakesWhatTheTableHas) {
  RequestHead head = Head("GET", "/things/a%20b?q=1");
  head.request_id = "mine-1";
  const Admission admission = Admitted(head);
  ASSERT_NE(admission.route, nullptr);
  EXPECT_EQ(admission.request.path, "/things/a b");
  EXPECT_EQ(admission.request.path_tail, "a b");
  EXPECT_EQ(admission.request.query, "q=1");
  EXPECT_EQ(admission.request.request_id, "mine-1");
  EXPECT_EQ(admission.request.tenant, "default");
}

TEST(AdmissionTest, RefusesMalformedHeads) {
  RequestHead head = Head("GET", "/open");
  head.num_hosts = 2;
  EXPECT_EQ(Refused(head), 400);
  for (const char* target : {"open", "/%", "/%zz", "/a/../open", "/%2e%2e/open",
                             "/%00", "/%ff", "http://h/open"}) {
    EXPECT_EQ(Refused(Head("GET", target)), 400) << target;
  }
  EXPECT_EQ(Refused(Head("GET", "/Open")), 404);
  EXPECT_EQ(Refused(Head("BREW", "/open")), 405);
}

TEST(AdmissionTest, ContentTypes) {
  RequestHead head = Head("POST", "/say");
  EXPECT_EQ(Refused(head), 0);
  for (const char* type : {"application/json; charset=utf-8",
                           "APPLICATION/JSON;charset=\"UTF-8\""}) {
    head.content_type = type;
    EXPECT_EQ(Refused(head), 0) << type;
  }
  for (const char* type : {"", "text/plain", "application/jsonx",
                           "application/json; charset=latin1",
                           "application/x-www-form-urlencoded"}) {
    head.content_type = type;
    EXPECT_EQ(Refused(head), 415) << type;
  }
}

TEST(AdmissionTest, AFullServerServesOpenRoutes) {
  EXPECT_EQ(Refused(Head("GET", "/open"), /*open_only=*/true), 0);
  EXPECT_EQ(Refused(Head("POST", "/say"), /*open_only=*/true), 503);
}

TEST(AdmissionTest, OptionsAreAnswered) {
  const Admission admission = Admitted(Head("OPTIONS", "/say"));
  ASSERT_TRUE(admission.answer.has_value());
  EXPECT_EQ(admission.answer->status, 204);
  EXPECT_EQ(admission.answer->headers[0].second, "POST, OPTIONS");
  EXPECT_EQ(Refused(Head("OPTIONS", "/nowhere")), 404);
}

TEST(RequestIdTest, OnlyPlainIdsAreKept) {
  EXPECT_EQ(RequestIdOrNew("a-b_c.d:1"), "a-b_c.d:1");
  for (const std::string& id : {std::string(), std::string("a b"),
                                std::string("a\r\nb"), std::string(129, 'a')}) {
    EXPECT_EQ(RequestIdOrNew(id).size(), 32u);
    EXPECT_NE(RequestIdOrNew(id), id);
  }
  EXPECT_NE(RequestIdOrNew(""), RequestIdOrNew(""));
}

}  // namespace
}  // namespace shoal
