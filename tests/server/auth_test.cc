#include "server/auth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <string>

namespace shoal {
namespace {

using ::testing::HasSubstr;

// A key file that goes away with the test.
class KeyFile {
 public:
  explicit KeyFile(const std::string& text, mode_t mode = 0600)
      : path_(::testing::TempDir() + "/auth_test_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::ofstream(path_, std::ios::binary) << text;
    chmod(path_.c_str(), mode);
  }
  ~KeyFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

TEST(ApiKeysTest, WithoutKeysEverybodyIsDefault) {
  const ApiKeys keys;
  EXPECT_FALSE(keys.required());
  EXPECT_EQ(keys.Check(""), "default");
  EXPECT_EQ(keys.Check("anything"), "default");
}

TEST(ApiKeysTest, NamesOfKeys) {
  const KeyFile file(
      "# for tests\n\n  alone  \nalice:secret # hers\r\nbob: two:parts\n");
  const auto keys = ApiKeys::Load(file.path());
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_TRUE(keys->required());
  EXPECT_EQ(keys->Check("alone"), "default");
  EXPECT_EQ(keys->Check("secret"), "alice");
  EXPECT_EQ(keys->Check("two:parts"), "bob");
  for (const char* key :
       {"", "Secret", "secre", "secrets", "alice:secret", "# for tests"}) {
    EXPECT_FALSE(keys->Check(key).has_value()) << key;
  }
}

TEST(ApiKeysTest, FilesThatAreRefusedAreNamed) {
  EXPECT_TRUE(absl::IsNotFound(ApiKeys::Load("/nonexistent/keys").status()));
  for (const char* text : {"", "# none\n", "name:\n", ":key\n"}) {
    const KeyFile file(text);
    const absl::Status status = ApiKeys::Load(file.path()).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(file.path()));
  }
  const KeyFile long_line(std::string(513, 'a'));
  EXPECT_TRUE(
      absl::IsInvalidArgument(ApiKeys::Load(long_line.path()).status()));
  EXPECT_FALSE(ApiKeys::Load(::testing::TempDir()).ok());
}

TEST(ApiKeysTest, FilesOpenToEverybodyAreRefused) {
  const KeyFile file("key\n", 0644);
  EXPECT_TRUE(absl::IsPermissionDenied(ApiKeys::Load(file.path()).status()));
}

TEST(ApiKeysTest, BearerTokens) {
  EXPECT_EQ(ApiKeys::BearerToken("Bearer abc"), "abc");
  EXPECT_EQ(ApiKeys::BearerToken("bearer  abc "), "abc");
  for (const char* value : {"", "Bearer", "Bearer ", "abc", "Basic abc"}) {
    EXPECT_EQ(ApiKeys::BearerToken(value), "") << value;
  }
}

}  // namespace
}  // namespace shoal
