#include "server/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace shoal {
namespace {

struct Outcome {
  std::string text;
  bool matched = false;
  std::string stop;

  bool operator==(const Outcome&) const = default;
};

// Pushes the parts; `sent` collects what was safe after each.
Outcome RunAll(StopMatcher matcher, const std::vector<std::string>& parts) {
  Outcome outcome;
  for (const std::string& part : parts) {
    StopMatcher::Result result = matcher.Push(part);
    outcome.text += result.text;
    if (result.matched) {
      outcome.matched = true;
      outcome.stop = result.stop;
      return outcome;
    }
  }
  const StopMatcher::Result rest = matcher.Finish();
  return {outcome.text + rest.text, rest.matched, rest.stop};
}

// The definition, on the whole text.
Outcome Search(const std::vector<std::string>& stops, bool include_stop,
               const std::string& text) {
  size_t at = text.npos;
  std::string best;
  for (const std::string& stop : stops) {
    const size_t found = stop.empty() ? text.npos : text.find(stop);
    if (found == text.npos || found > at) continue;
    if (found == at && stop.size() < best.size()) continue;
    at = found;
    best = stop;
  }
  if (at == text.npos) return {text, false, ""};
  return {text.substr(0, at) + (include_stop ? best : ""), true, best};
}

TEST(StopMatcherTest, HoldsBackWhatCouldBecomeAStop) {
  StopMatcher matcher({"END", ""}, false);
  EXPECT_EQ(matcher.Push("abcE").text, "abc");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("EN").text, "EN");
  const StopMatcher::Result result = matcher.Push("D more");
  EXPECT_TRUE(result.matched);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.stop, "END");
}

TEST(StopMatcherTest, AtOnePlaceTheLongestWins) {
  EXPECT_EQ(RunAll({{"ab", "abcd"}, true}, {"xab", "cd"}),
            (Outcome{"xabcd", true, "abcd"}));
  EXPECT_EQ(RunAll({{"ab", "abcd"}, true}, {"xab", "ce"}),
            (Outcome{"xab", true, "ab"}));
  // Nothing of a match is sent even where a longer one stayed open.
  EXPECT_EQ(RunAll({{"ab", "abcd"}, false}, {"xabc"}),
            (Outcome{"x", true, "ab"}));
}

TEST(StopMatcherTest, WithoutStopsTextPassesThrough) {
  EXPECT_EQ(RunAll({{}, false}, {"a", "b"}), (Outcome{"ab", false, ""}));
}

TEST(StopMatcherTest, SplitsDoNotMatter) {
  std::mt19937 random(7);
  const auto below = [&random](int n) {
    return static_cast<int>(random() % n);
  };
  const auto word = [&](int longest) {
    std::string text;
    for (int n = below(longest + 1); n > 0; --n) text += "abc"[below(3)];
    return text;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + below(3));
    for (std::string& stop : stops) stop = word(4);
    const bool include_stop = below(2) == 1;
    std::vector<std::string> parts(below(8));
    std::string text;
    for (std::string& part : parts) text += part = word(4);
    const Outcome expected = Search(stops, include_stop, text);
    ASSERT_EQ(RunAll({stops, include_stop}, parts), expected) << text;
  }
}

}  // namespace
}  // namespace shoal
