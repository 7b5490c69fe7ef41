// BlockPool against a naive model that knows contents by all tokens from the
// start, keeps one list of what may be evicted and searches it whole.
#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/cache/block_pool.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

constexpr int32_t kBlocks = 20, kBlockSize = 2;

// Salt and tokens from the sequence's start to the block's end.
using Content = std::pair<std::string, std::vector<int32_t>>;

struct Sequence {
  std::string salt;
  std::vector<int32_t> tokens, table;
  std::vector<Content> known;  // its leading blocks that the cache points to

  Content Start(int32_t num_blocks) const {
    return {salt, {tokens.begin(), tokens.begin() + num_blocks * kBlockSize}};
  }
};

class NaivePool {
 public:
  int32_t num_free() const {
    return num_unused_ + static_cast<int32_t>(evictable_.size());
  }
  int32_t num_cached() const { return static_cast<int32_t>(refs_.size()); }

  void Match(Sequence& sequence) {
    const auto size = static_cast<int32_t>(sequence.tokens.size());
    for (int32_t n = 1; n * kBlockSize < size; ++n) {
      const Content content = sequence.Start(n);
      const auto it = refs_.find(content);
      if (it == refs_.end()) return;
      if (it->second++ == 0) evictable_.remove(content);
      sequence.known.push_back(content);
    }
  }
  bool Allocate(int32_t n) {
    if (n > num_free()) return false;
    for (; n > 0; --n) {
      if (num_unused_ > 0) {
        --num_unused_;
      } else {
        refs_.erase(evictable_.front());
        evictable_.pop_front();
      }
    }
    return true;
  }
  void Cache(Sequence& sequence) {
    const auto full = static_cast<int32_t>(sequence.tokens.size()) / kBlockSize;
    for (auto n = static_cast<int32_t>(sequence.known.size()) + 1; n <= full;
         ++n) {
      if (!refs_.emplace(sequence.Start(n), 1).second) return;
      sequence.known.push_back(sequence.Start(n));
    }
  }
  void Release(const Sequence& sequence) {
    num_unused_ +=
        static_cast<int32_t>(sequence.table.size() - sequence.known.size());
    for (auto it = sequence.known.rbegin(); it != sequence.known.rend(); ++it) {
      if (--refs_[*it] == 0) evictable_.push_back(*it);
    }
  }

 private:
  int32_t num_unused_ = kBlocks;
  std::map<Content, int32_t> refs_;  // of what is cached
  std::list<Content> evictable_;     // oldest first
};

TEST(BlockPoolModelTest, AgreesWithTheNaiveModel) {
  int matched_blocks = 0, refused = 0;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    std::mt19937 random(seed);
    BlockPool pool(kBlocks, kBlockSize, true);
    NaivePool naive;
    std::vector<Sequence> live;
    const auto release = [&](Sequence& sequence) {
      naive.Release(sequence);
      pool.Release(sequence.table);
    };
    for (int step = 0; step < 5000; ++step) {
      if (!live.empty() && random() % 2 == 0) {
        std::swap(live[random() % live.size()], live.back());
        release(live.back());
        live.pop_back();
      } else {
        Sequence next;
        next.salt = random() % 4 == 0 ? "x" : "";
        next.tokens.resize(1 + random() % 12);
        for (int32_t& token : next.tokens) token = random() % 2;
        const int32_t matched =
            pool.MatchPrefix(next.tokens, next.salt, next.table);
        naive.Match(next);
        ASSERT_EQ(matched / kBlockSize, next.known.size());
        matched_blocks += matched / kBlockSize;
        const auto size = static_cast<int32_t>(next.tokens.size());
        const int32_t missing = (size - matched + kBlockSize - 1) / kBlockSize;
        const bool fits = naive.Allocate(missing);
        ASSERT_EQ(pool.Allocate(missing, next.table).ok(), fits);
        if (fits) {
          pool.Cache(next.tokens, next.salt, next.table, matched / kBlockSize,
                     size / kBlockSize);
          naive.Cache(next);
          live.push_back(std::move(next));
        } else {
          ++refused;
          release(next);
        }
      }
      ASSERT_EQ(pool.num_free(), naive.num_free());
      ASSERT_EQ(pool.num_cached(), naive.num_cached());
      // Every reference is one that a live sequence holds.
      std::vector<int32_t> holders(kBlocks);
      for (const Sequence& sequence : live) {
        for (int32_t id : sequence.table) ++holders[id];
      }
      for (int32_t id = 0; id < kBlocks; ++id) {
        ASSERT_EQ(pool.ref_count(id), holders[id]);
      }
    }
  }
  // The walk went where it was meant to.
  EXPECT_GT(matched_blocks, 1000);
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace shoal
