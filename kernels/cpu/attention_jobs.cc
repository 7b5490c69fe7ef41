#include "kernels/cpu/attention_jobs.h"

#include <algorithm>
#include <numeric>

#include "kernels/cpu/packed_weights.h"
#include "kernels/cpu/top_keys.h"

namespace shoal::cpu {
namespace {

// Query rows (tokens times heads of a group) of one item: enough to pay for
// packing a tile of keys, few enough for queries and sums to stay in L2.
constexpr int64_t kItemRows = 96;
// Heads of one token: as many share a tile, if the group is large.
constexpr int32_t kItemHeads = 64;
// Items a thread below which items are cut further.
constexpr int64_t kItemsPerThread = 4;
constexpr int64_t kKeysPerItem = 1024;  // of the indexer's scan

int32_t NumSegments(int64_t num_keys) {
  return static_cast<int32_t>((num_keys + kAttentionSegment - 1) /
                              kAttentionSegment);
}

int32_t SequenceOf(const int32_t* cu_seqlens, int32_t num_seqs, int32_t token) {
  return static_cast<int32_t>(
      std::upper_bound(cu_seqlens, cu_seqlens + num_seqs + 1, token) -
      cu_seqlens - 1);
}

}  // namespace

float* AttentionRunner::Scratch(int thread, int64_t floats) {
  std::vector<float>& scratch = scratch_[thread];
  if (static_cast<int64_t>(scratch.size()) < floats) scratch.resize(floats);
  return scratch.data();
}

void AttentionRunner::MakeItems(const PagedAttentionParams& params) {
  const int32_t group = params.num_heads / params.num_kv_heads;
  const int32_t head_parts = (group + kItemHeads - 1) / kItemHeads;
  const int32_t heads = (group + head_parts - 1) / head_parts;
  const auto tile =
      static_cast<int32_t>(std::max<int64_t>(1, kItemRows / heads));
  items_.clear();
  for (int32_t s = params.num_seqs - 1; s >= 0; --s) {
    const int32_t q_len = params.cu_seqlens_q[s + 1] - params.cu_seqlens_q[s];
    // Late tiles see the most keys: they go first.
    for (int32_t t = (q_len + tile - 1) / tile - 1; t >= 0; --t) {
      AttentionItem item;
      item.seq = s;
      item.first = t * tile;
      item.count = std::min(tile, q_len - item.first);
      item.segment_end =
          NumSegments(params.context_lens[s] - q_len + item.first + item.count);
      for (item.kv_head = 0; item.kv_head < params.num_kv_heads;
           ++item.kv_head) {
        for (item.first_head = 0; item.first_head < group;
             item.first_head += heads) {
          item.num_heads = std::min(heads, group - item.first_head);
          items_.push_back(item);
        }
      }
    }
  }
}

void AttentionRunner::MakeParts(const CpuOps& ops,
                                const PagedAttentionParams& params) {
  parts_.clear();
  first_states_.clear();
  int64_t floats = 0;
  for (const AttentionItem& item : items_) {
    const int64_t size = ops.attention_states_floats(
        params, int64_t{item.num_heads} * item.count);
    first_states_.push_back(floats);
    for (int32_t s = 0; s < item.segment_end; ++s) {
      Part& part = parts_.emplace_back(Part{item, floats});
      part.item.segment_begin = s;
      part.item.segment_end = s + 1;
      floats += size;
    }
  }
  if (static_cast<int64_t>(states_.size()) < floats) states_.resize(floats);
}

void AttentionRunner::Paged(const CpuOps& ops, ThreadPool& pool,
                            const PagedAttentionParams& params) {
  MakeItems(params);
  int64_t most_rows = 0;
  int32_t most_segments = 0;
  for (const AttentionItem& item : items_) {
    most_rows = std::max(most_rows, int64_t{item.num_heads} * item.count);
    most_segments = std::max(most_segments, item.segment_end);
  }
  const int64_t scratch = ops.attention_scratch_floats(params, most_rows);
  const auto num_items = static_cast<int64_t>(items_.size());
  if (most_segments <= 1 || pool.num_threads() == 1 ||
      num_items >= kItemsPerThread * pool.num_threads()) {
    pool.For(num_items, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        ops.attention(params, items_[i], nullptr, Scratch(thread, scratch));
      }
    });
    return;
  }
  MakeParts(ops, params);
  pool.For(static_cast<int64_t>(parts_.size()), 1,
           [&](int64_t begin, int64_t end, int thread) {
             for (int64_t i = begin; i < end; ++i) {
               ops.attention(params, parts_[i].item,
                             states_.data() + parts_[i].states,
                             Scratch(thread, scratch));
             }
           });
  pool.For(num_items, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      ops.attention_merge(params, items_[i], states_.data() + first_states_[i]);
    }
  });
}

void AttentionRunner::Latent(const CpuOps& ops, ThreadPool& pool,
                             const LatentAttentionParams& params) {
  const auto num_heads = static_cast<int64_t>(params.k_weights.size());
  const auto run = [&](int64_t item, int thread) {
    const auto seq = static_cast<int32_t>(item / num_heads);
    const auto h = static_cast<int32_t>(item % num_heads);
    const auto& k = *static_cast<const CpuMatrix*>(params.k_weights[h]);
    const auto& v = *static_cast<const CpuMatrix*>(params.v_weights[h]);
    const LatentHead head = {&params,         k.floats(),
                             v.floats(),      k.out_features(),
                             k.in_features(), v.out_features()};
    const int32_t q_len =
        params.cu_seqlens_q[seq + 1] - params.cu_seqlens_q[seq];
    ops.latent_attention(
        head, seq, h,
        Scratch(thread, ops.latent_attention_scratch_floats(head, q_len)));
  };
  pool.For(params.num_seqs * num_heads, 1,
           [&](int64_t begin, int64_t end, int thread) {
             for (int64_t item = begin; item < end; ++item) run(item, thread);
           });
}

void AttentionRunner::Sparse(const CpuOps& ops, ThreadPool& pool,
                             const SparseAttentionParams& params) {
  // Each part of a token's heads packs its keys anew.
  const int64_t wanted = pool.num_threads() == 1 ? 1 : 2 * pool.num_threads();
  const int64_t parts =
      std::clamp<int64_t>((wanted + params.num_tokens - 1) /
                              std::max<int64_t>(params.num_tokens, 1),
                          (params.num_heads + kItemHeads - 1) / kItemHeads,
                          std::max(1, params.num_heads / 16));
  const auto heads =
      static_cast<int32_t>((params.num_heads + parts - 1) / parts);
  const int64_t scratch = ops.sparse_attention_scratch_floats(params, heads);
  pool.For(params.num_tokens * parts, 1,
           [&](int64_t begin, int64_t end, int thread) {
             for (int64_t i = begin; i < end; ++i) {
               const auto first = static_cast<int32_t>(i % parts) * heads;
               const int32_t count = std::min(heads, params.num_heads - first);
               if (count <= 0) continue;
               ops.sparse_attention(params, i / parts, first, count,
                                    Scratch(thread, scratch));
             }
           });
}

void AttentionRunner::WriteChoice(const KeySelectParams& params, int32_t t,
                                  const std::vector<int32_t>& order) {
  const int32_t seq = SequenceOf(params.cu_seqlens_q, params.num_seqs, t);
  const int32_t* table = params.block_tables + int64_t{seq} * params.max_blocks;
  int32_t* slots = params.slots + int64_t{t} * params.top_k;
  for (const int32_t key : order) {
    *slots++ = table[key / params.keys_per_block] * params.keys_per_block +
               key % params.keys_per_block;
  }
  params.num_selected[t] = static_cast<int32_t>(order.size());
}

void AttentionRunner::SelectKeys(const CpuOps& ops, ThreadPool& pool,
                                 const KeySelectParams& params) {
  const int32_t num_tokens = params.cu_seqlens_q[params.num_seqs];
  const int64_t scratch = ops.key_scores_scratch_floats(params);
  const auto score = [&](int32_t t, int64_t begin, int64_t end, float* scores,
                         float* memory) {
    ops.key_scores(params, SequenceOf(params.cu_seqlens_q, params.num_seqs, t),
                   t, begin, end, scores, memory);
  };
  const auto choose = [&](int32_t t, const float* scores, int thread) {
    std::vector<int32_t>& order = orders_[thread];
    const int64_t visible = params.num_visible[t];
    if (visible <= params.top_k) {
      order.resize(visible);
      std::iota(order.begin(), order.end(), 0);
    } else {
      SelectTopKeys({scores, static_cast<size_t>(visible)}, params.top_k,
                    &order);
    }
    WriteChoice(params, t, order);
  };
  if (num_tokens >= 2 * pool.num_threads() || pool.num_threads() == 1) {
    pool.For(num_tokens, 1, [&](int64_t begin, int64_t end, int thread) {
      for (auto t = static_cast<int32_t>(begin); t < end; ++t) {
        const int64_t visible = params.num_visible[t];
        float* scores = Scratch(thread, visible + scratch);
        if (visible > params.top_k) {
          score(t, 0, visible, scores, scores + visible);
        }
        choose(t, scores, thread);
      }
    });
    return;
  }
  // Few tokens: threads share the keys of each.
  for (int32_t t = 0; t < num_tokens; ++t) {
    const int64_t visible = params.num_visible[t];
    if (visible > params.top_k) {
      if (static_cast<int64_t>(scores_.size()) < visible) {
        scores_.resize(visible);
      }
      pool.For((visible + kKeysPerItem - 1) / kKeysPerItem, 1,
               [&](int64_t begin, int64_t end, int thread) {
                 score(t, begin * kKeysPerItem,
                       std::min(end * kKeysPerItem, visible), scores_.data(),
                       Scratch(thread, scratch));
               });
    }
    choose(t, scores_.data(), 0);
  }
}

}  // namespace shoal::cpu
