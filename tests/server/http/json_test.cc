#include "server/http/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

std::string Refusal(const std::string& text) {
  const auto json = ParseJsonObject(text);
  EXPECT_TRUE(absl::IsInvalidArgument(json.status())) << text;
  EXPECT_EQ(ErrorCode(json.status()), "invalid_json");
  return std::string(json.status().message());
}

TEST(ParseJsonObjectTest, KeepsValuesAndOrder) {
  const auto json = ParseJsonObject(R"({"b":[1,{"x":null}],"a":"ü","c":-2.5})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(DumpJson(*json), R"({"b":[1,{"x":null}],"a":"ü","c":-2.5})");
}

TEST(ParseJsonObjectTest, RefusesWhatIsNotOneObject) {
  for (const char* text :
       {"", "[]", "7", "null", "{", "{}{}", "{\"a\":}", "{\"a\":NaN}",
        "{\"a\":1e999}", "{'a':1}", "{\"a\":1,}", "{\"a\":\"\\ud800\"}"}) {
    Refusal(text);
  }
}

TEST(ParseJsonObjectTest, RefusesInvalidUtf8) {
  for (const char* bytes : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80"}) {
    Refusal("{\"a\":\"" + std::string(bytes) + "\"}");
  }
}

TEST(ParseJsonObjectTest, RefusesDepth) {
  std::string deep = "{\"a\":" + std::string(100000, '[');
  EXPECT_THAT(Refusal(deep), HasSubstr("nested deeper than 64"));
  deep = "{\"a\":" + std::string(63, '[') + std::string(63, ']') + "}";
  EXPECT_TRUE(ParseJsonObject(deep).ok());
}

TEST(ParseJsonObjectTest, RefusesEqualKeysAndTooMany) {
  EXPECT_THAT(Refusal(R"({"a":1,"a":2})"), HasSubstr("\"a\" comes twice"));
  EXPECT_TRUE(ParseJsonObject(R"({"a":{"a":1},"b":{"a":2}})").ok());
  std::string many = "{";
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&many, "\"", i, "\":1,");
  EXPECT_THAT(Refusal(many + "\"x\":1}"), HasSubstr("4096"));
}

TEST(JsonFieldsTest, KeepsTheFirstError) {
  const Json json = {{"a", "text"}, {"b", -1}};
  JsonFields fields(json, "outer.");
  EXPECT_FALSE(fields.Int("a", 0, 9).has_value());
  EXPECT_FALSE(fields.Int("b", 0, 9).has_value());
  EXPECT_EQ(ErrorParam(fields.status()), "outer.a");
  EXPECT_EQ(ErrorCode(fields.status()), "invalid_type");
  EXPECT_EQ(std::string(fields.status().message()),
            "outer.a must be an integer");
}

TEST(JsonFieldsTest, NullIsAbsent) {
  const Json json = {{"a", nullptr}};
  JsonFields fields(json);
  EXPECT_FALSE(fields.Bool("a").has_value());
  EXPECT_FALSE(fields.String("b").has_value());
  EXPECT_TRUE(fields.ok());
}

}  // namespace
}  // namespace shoal
