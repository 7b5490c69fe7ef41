#include "engine/cache/block_pool.h"

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace shoal {

BlockPool::BlockPool(int32_t num_blocks, int32_t block_size,
                     bool enable_prefix_caching)
    : block_size_(block_size),
      enable_prefix_caching_(enable_prefix_caching),
      blocks_(num_blocks) {
  SHOAL_CHECK(num_blocks > 0 && block_size > 0);
  // Low ids first, so that memory is touched from its start.
  for (int32_t id = num_blocks - 1; id >= 0; --id) free_.push_back(id);
}

BlockPool::Key BlockPool::MakeKey(uint64_t parent, std::string_view salt,
                                  std::span<const int32_t> tokens,
                                  int32_t index) const {
  const auto begin = tokens.begin() + int64_t{index} * block_size_;
  return {parent, parent == 0 ? std::string(salt) : std::string(),
          std::vector<int32_t>(begin, begin + block_size_)};
}

int32_t BlockPool::TakeFree() {
  if (!free_.empty()) {
    const int32_t id = free_.back();
    free_.pop_back();
    return id;
  }
  const int32_t id = evictable_.front();
  evictable_.pop_front();
  Block& block = blocks_[id];
  cache_.erase(block.key);
  block.cached = false;
  block.key = Key();
  return id;
}

absl::Status BlockPool::Allocate(int32_t n, std::vector<int32_t>& table) {
  if (n > num_free()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        n, " blocks wanted, ", num_free(), " of ", num_blocks(), " free"));
  }
  for (int32_t i = 0; i < n; ++i) {
    const int32_t id = TakeFree();
    blocks_[id].ref_count = 1;
    blocks_[id].content = 0;
    table.push_back(id);
  }
  return absl::OkStatus();
}

void BlockPool::Release(std::vector<int32_t>& table) {
  for (auto it = table.rbegin(); it != table.rend(); ++it) {
    Block& block = blocks_[*it];
    SHOAL_CHECK(block.ref_count > 0);
    if (--block.ref_count > 0) continue;
    if (block.cached) {
      block.place = evictable_.insert(evictable_.end(), *it);
    } else {
      free_.push_back(*it);
    }
  }
  table.clear();
}

int32_t BlockPool::MatchPrefix(std::span<const int32_t> tokens,
                               std::string_view salt,
                               std::vector<int32_t>& table) {
  if (!enable_prefix_caching_ || tokens.empty()) return 0;
  const auto most = static_cast<int32_t>((tokens.size() - 1) / block_size_);
  uint64_t parent = 0;
  for (int32_t i = 0; i < most; ++i) {
    const auto it = cache_.find(MakeKey(parent, salt, tokens, i));
    if (it == cache_.end()) return i * block_size_;
    Block& block = blocks_[it->second];
    if (block.ref_count++ == 0) evictable_.erase(block.place);
    parent = block.content;
    table.push_back(it->second);
  }
  return most * block_size_;
}

void BlockPool::Cache(std::span<const int32_t> tokens, std::string_view salt,
                      std::span<const int32_t> table, int32_t first,
                      int32_t last) {
  if (!enable_prefix_caching_) return;
  uint64_t parent = first == 0 ? 0 : blocks_[table[first - 1]].content;
  SHOAL_CHECK(first == 0 || parent != 0);
  for (int32_t i = first; i < last; ++i) {
    Block& block = blocks_[table[i]];
    SHOAL_CHECK(block.ref_count > 0);
    Key key = MakeKey(parent, salt, tokens, i);
    const auto [it, inserted] = cache_.try_emplace(key, table[i]);
    if (inserted) {
      block.cached = true;
      block.content = next_content_++;
      block.key = std::move(key);
    } else {
      block.content = blocks_[it->second].content;
    }
    parent = block.content;
  }
}

}  // namespace shoal
