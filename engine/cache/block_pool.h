// BlockPool hands out ids of the paged cache's blocks, counts references and
// remembers which full blocks hold which tokens, so that a prompt that begins
// like an earlier one finds its blocks again. The bytes live in PagedCache.
// Unit: blocks throughout, except where a name says tokens.
//
// A cached block is known by (its parent block, its tokens), a chain that
// starts at a salt; tokens are compared in full, so no hash collision can hand
// out another text's cache. Blocks whose last reference is dropped stay cached
// until they are needed: first blocks that were never filled go, then the least
// recently used, of one sequence the last first.
//
// num_free() + referenced blocks == num_blocks(), always.
// Threads: step thread only. Cost: O(1) a block, besides copying its tokens.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace shoal {

class BlockPool {
 public:
  // REQUIRES: num_blocks > 0, block_size > 0 (tokens a block).
  BlockPool(int32_t num_blocks, int32_t block_size, bool enable_prefix_caching);

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t block_size() const { return block_size_; }
  // Never filled, or cached and not referenced.
  int32_t num_free() const {
    return static_cast<int32_t>(free_.size() + evictable_.size());
  }
  int32_t num_cached() const { return static_cast<int32_t>(cache_.size()); }
  int32_t ref_count(int32_t block_id) const {
    return blocks_[block_id].ref_count;
  }

  // Appends n ids with one reference each, or none. ResourceExhausted if
  // n > num_free().
  absl::Status Allocate(int32_t n, std::vector<int32_t>& table);
  // Drops one reference on every id and empties the table.
  // REQUIRES: each id is referenced.
  void Release(std::vector<int32_t>& table);

  // Appends the longest cached chain of full blocks over the start of `tokens`,
  // with a reference on each, and returns how many tokens they hold: at most
  // tokens.size() - 1, since the last token has to be computed.
  int32_t MatchPrefix(std::span<const int32_t> tokens, std::string_view salt,
                      std::vector<int32_t>& table);
  // Makes blocks [first, last) of a sequence known, all full and computed.
  // Content that is cached already keeps its older block.
  // REQUIRES: blocks before `first` have been made known or matched.
  void Cache(std::span<const int32_t> tokens, std::string_view salt,
             std::span<const int32_t> table, int32_t first, int32_t last);

 private:
  // Identity of a block's content: of all tokens from the sequence's start.
  struct Key {
    uint64_t parent;   // content id of the block before; 0 at the start
    std::string salt;  // at the start only
    std::vector<int32_t> tokens;

    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.parent, key.salt, key.tokens);
    }
  };
  struct Block {
    int32_t ref_count = 0;
    uint64_t content = 0;                // id of its content; 0: not known
    bool cached = false;                 // cache_ points here
    Key key;                             // if cached
    std::list<int32_t>::iterator place;  // in evictable_, if it is there
  };

  Key MakeKey(uint64_t parent, std::string_view salt,
              std::span<const int32_t> tokens, int32_t index) const;
  int32_t TakeFree();

  const int32_t block_size_;
  const bool enable_prefix_caching_;
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;     // hold nothing worth keeping
  std::list<int32_t> evictable_;  // cached, unreferenced; oldest first
  absl::flat_hash_map<Key, int32_t> cache_;
  uint64_t next_content_ = 1;
};

}  // namespace shoal
