#include "server/errors.h"

#include <gtest/gtest.h>

#include <string>

namespace shoal {
namespace {

TEST(ErrorsTest, DetailsTravelWithTheStatus) {
  const absl::Status status = WithRetryAfter(
      WithDetail(absl::ResourceExhaustedError("full"), "n", "queue_full"),
      absl::Milliseconds(1500));
  EXPECT_EQ(ErrorParam(status), "n");
  EXPECT_EQ(ErrorCode(status), "queue_full");
  EXPECT_EQ(RetryAfter(status), absl::Milliseconds(1500));
  EXPECT_EQ(status.message(), "full");
}

TEST(ErrorsTest, NothingSetIsEmpty) {
  const absl::Status status = WithDetail(absl::NotFoundError("x"), "", "");
  EXPECT_EQ(ErrorParam(status), "");
  EXPECT_EQ(ErrorCode(status), "");
  EXPECT_FALSE(RetryAfter(status).has_value());
}

TEST(ErrorsTest, HttpStatusOfCodes) {
  EXPECT_EQ(HttpStatus(absl::OkStatus()), 200);
  EXPECT_EQ(HttpStatus(absl::InvalidArgumentError("")), 400);
  EXPECT_EQ(HttpStatus(absl::FailedPreconditionError("")), 400);
  EXPECT_EQ(HttpStatus(absl::UnauthenticatedError("")), 401);
  EXPECT_EQ(HttpStatus(absl::PermissionDeniedError("")), 403);
  EXPECT_EQ(HttpStatus(absl::NotFoundError("")), 404);
  EXPECT_EQ(HttpStatus(absl::ResourceExhaustedError("")), 429);
  EXPECT_EQ(HttpStatus(absl::CancelledError("")), 499);
  EXPECT_EQ(HttpStatus(absl::InternalError("")), 500);
  EXPECT_EQ(HttpStatus(absl::UnknownError("")), 500);
  EXPECT_EQ(HttpStatus(absl::UnimplementedError("")), 501);
  EXPECT_EQ(HttpStatus(absl::UnavailableError("")), 503);
  EXPECT_EQ(HttpStatus(absl::DeadlineExceededError("")), 504);
}

TEST(PrintableTextTest, ReplacesWhatDoesNotPrint) {
  EXPECT_EQ(PrintableText("plain \xc3\xbc \xf0\x9f\x90\x9f"),
            "plain \xc3\xbc \xf0\x9f\x90\x9f");
  const std::string mark = "\xef\xbf\xbd";
  for (const char* bad : {"\n", "\x1b", "\x7f", "\xff", "\xc2\x85", "\xc3"}) {
    EXPECT_EQ(PrintableText(bad), mark) << static_cast<int>(bad[0]);
  }
  EXPECT_EQ(PrintableText("\xed\xa0\x80"), mark + mark + mark);
  EXPECT_EQ(PrintableText(std::string_view("a\0b", 3)), "a" + mark + "b");
}

TEST(PrintableTextTest, CutsAtACharactersEnd) {
  EXPECT_EQ(PrintableText("abcdef", 6), "abcdef");
  EXPECT_EQ(PrintableText("abcdefg", 6), "abcdef...");
  EXPECT_EQ(PrintableText("ab\xc3\xbc", 3), "ab...");
}

}  // namespace
}  // namespace shoal
