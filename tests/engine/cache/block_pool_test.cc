#include "engine/cache/block_pool.h"

#include <map>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(BlockPoolTest, AllocateMoreThanFreeTakesNothing) {
  BlockPool pool(3, 4, true);
  std::vector<int32_t> table = {};
  EXPECT_EQ(pool.Allocate(4, table).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(table, IsEmpty());
  EXPECT_TRUE(pool.Allocate(3, table).ok());
  EXPECT_THAT(table, ElementsAre(0, 1, 2));
  EXPECT_EQ(pool.num_free(), 0);
}

class PrefixTest : public testing::Test {
 protected:
  // Computes a sequence's blocks and gives them back.
  void Run(const std::vector<int32_t>& tokens, const std::string& salt = "") {
    std::vector<int32_t> table;
    const int32_t matched = pool_.MatchPrefix(tokens, salt, table);
    const auto full = static_cast<int32_t>(tokens.size() / 2);
    const auto blocks = static_cast<int32_t>((tokens.size() + 1) / 2);
    ASSERT_TRUE(
        pool_.Allocate(blocks - static_cast<int32_t>(table.size()), table)
            .ok());
    pool_.Cache(tokens, salt, table, matched / 2, full);
    pool_.Release(table);
  }
  int32_t Match(const std::vector<int32_t>& tokens,
                const std::string& salt = "") {
    std::vector<int32_t> table;
    const int32_t matched = pool_.MatchPrefix(tokens, salt, table);
    pool_.Release(table);
    return matched;
  }

  BlockPool pool_{4, 2, true};
};

TEST_F(PrefixTest, FindsTheLongestCommonStart) {
  Run({1, 2, 3, 4, 5, 6});
  EXPECT_EQ(Match({1, 2, 3, 4, 5, 6, 7}), 6);
  EXPECT_EQ(Match({1, 2, 3, 4, 9, 9, 9}), 4);
  EXPECT_EQ(Match({1, 9, 3, 4}), 0);
}

TEST_F(PrefixTest, LeavesTheLastTokenToCompute) {
  Run({1, 2, 3, 4});
  EXPECT_EQ(Match({1, 2, 3, 4}), 2);
}

TEST_F(PrefixTest, EqualBlocksAfterOtherTokensAreNotTheSame) {
  Run({1, 2, 3, 4});
  EXPECT_EQ(Match({9, 9, 3, 4, 5}), 0);
  EXPECT_EQ(Match({3, 4, 5}), 0);
}

TEST_F(PrefixTest, SaltsDoNotShare) {
  Run({1, 2, 3}, "a");
  EXPECT_EQ(Match({1, 2, 3}, "a"), 2);
  EXPECT_EQ(Match({1, 2, 3}, "b"), 0);
  EXPECT_EQ(Match({1, 2, 3}), 0);
}

TEST_F(PrefixTest, EvictsTheEndOfTheOldestSequenceFirst) {
  Run({1, 2, 3, 4});  // fills two blocks
  Run({5, 6, 7, 8});  // and the other two
  std::vector<int32_t> table;
  ASSERT_TRUE(pool_.Allocate(1, table).ok());
  EXPECT_EQ(Match({1, 2, 3, 4, 0}), 2);
  EXPECT_EQ(Match({5, 6, 7, 8, 0}), 4);
  pool_.Release(table);
}

TEST_F(PrefixTest, ReferencedBlocksStay) {
  Run({1, 2, 3, 4});
  std::vector<int32_t> held, rest;
  EXPECT_EQ(pool_.MatchPrefix(std::vector<int32_t>{1, 2, 3, 4, 5}, "", held),
            4);
  EXPECT_EQ(pool_.num_free(), 2);
  EXPECT_TRUE(pool_.Allocate(2, rest).ok());
  EXPECT_FALSE(pool_.Allocate(1, rest).ok());
  pool_.Release(rest);
  pool_.Release(held);
  EXPECT_EQ(pool_.num_free(), 4);
}

TEST(BlockPoolTest, WithoutPrefixCachingNothingIsFound) {
  BlockPool pool(2, 1, false);
  std::vector<int32_t> table;
  const std::vector<int32_t> tokens = {1, 2};
  ASSERT_TRUE(pool.Allocate(2, table).ok());
  pool.Cache(tokens, "", table, 0, 2);
  pool.Release(table);
  EXPECT_EQ(pool.MatchPrefix(tokens, "", table), 0);
}

// Random sequences come, grow and go. What a block id holds is tracked beside
// the pool: a match must hand out blocks with exactly the wanted content.
TEST(BlockPoolTest, RandomOperationsKeepCountsAndContents) {
  constexpr int32_t kBlocks = 24, kBlockSize = 3;
  for (uint32_t seed = 0; seed < 5; ++seed) {
    std::mt19937 random(seed);
    BlockPool pool(kBlocks, kBlockSize, true);
    struct Live {
      std::vector<int32_t> tokens, table;
      std::string salt;
    };
    std::vector<Live> live;
    std::map<int32_t, std::pair<std::string, std::vector<int32_t>>> contents;
    for (int step = 0; step < 4000; ++step) {
      if (live.empty() || random() % 2 == 0) {
        Live next;
        next.salt = random() % 4 == 0 ? "x" : "";
        next.tokens.resize(1 + random() % 20);
        // Few distinct tokens, so that starts often agree.
        for (int32_t& token : next.tokens) token = random() % 2;
        const int32_t matched =
            pool.MatchPrefix(next.tokens, next.salt, next.table);
        ASSERT_LT(matched, static_cast<int32_t>(next.tokens.size()));
        ASSERT_EQ(matched, next.table.size() * kBlockSize);
        for (size_t b = 0; b < next.table.size(); ++b) {
          const std::vector<int32_t> start(
              next.tokens.begin(), next.tokens.begin() + (b + 1) * kBlockSize);
          ASSERT_EQ(contents[next.table[b]], std::pair(next.salt, start));
        }
        const auto full = static_cast<int32_t>(next.tokens.size()) / kBlockSize;
        const auto wanted = static_cast<int32_t>(
            (next.tokens.size() + kBlockSize - 1) / kBlockSize);
        if (!pool.Allocate(wanted - static_cast<int32_t>(next.table.size()),
                           next.table)
                 .ok()) {
          pool.Release(next.table);
        } else {
          for (int32_t b = matched / kBlockSize; b < full; ++b) {
            contents[next.table[b]] = {
                next.salt, std::vector<int32_t>(
                               next.tokens.begin(),
                               next.tokens.begin() + (b + 1) * kBlockSize)};
          }
          pool.Cache(next.tokens, next.salt, next.table, matched / kBlockSize,
                     full);
          live.push_back(std::move(next));
        }
      } else {
        const size_t i = random() % live.size();
        pool.Release(live[i].table);
        live.erase(live.begin() + static_cast<int64_t>(i));
      }
      int32_t referenced = 0;
      for (int32_t id = 0; id < kBlocks; ++id) {
        referenced += pool.ref_count(id) > 0 ? 1 : 0;
      }
      ASSERT_EQ(pool.num_free() + referenced, kBlocks);
    }
    for (Live& sequence : live) pool.Release(sequence.table);
    EXPECT_EQ(pool.num_free(), kBlocks);
  }
}

}  // namespace
}  // namespace shoal
