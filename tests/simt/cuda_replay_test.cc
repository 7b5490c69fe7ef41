// Ops that a CUDA table records and replays; see KernelTable::Replay().
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cuda/cuda_table.h"

namespace shoal {
namespace {

class CudaReplayTest : public testing::Test {
 protected:
  void SetUp() override {
    CudaOptions options;
    options.warpgroups = CudaWarpgroups::kOff;  // no test takes scratch memory
    auto table = MakeCudaKernelTable(options);
    ASSERT_TRUE(table.ok()) << table.status();
    table_ = *std::move(table);
    in_ = Floats({1, 2, 3, 4});
    out_ = Floats({0, 0, 0, 0});
  }

  std::unique_ptr<DeviceBuffer> Floats(const std::vector<float>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
    auto buffer = table_->Allocate(bytes).value();
    table_->Upload(values.data(), bytes, buffer->data());
    return buffer;
  }

  // out_ += in_, by a key.
  void AddOnce(int64_t key) {
    const int64_t keys[] = {7, key};
    EXPECT_TRUE(table_
                    ->Replay(keys,
                             [this] {
                               ++calls_;
                               table_->Add(
                                   static_cast<const float*>(in_->data()), 4,
                                   static_cast<float*>(out_->data()));
                               return absl::OkStatus();
                             })
                    .ok());
  }
  float Last() {
    float out[4] = {};
    EXPECT_TRUE(table_->Download(out_->data(), sizeof out, out).ok());
    return out[3];
  }

  std::unique_ptr<KernelTable> table_;
  std::unique_ptr<DeviceBuffer> in_, out_;
  int calls_ = 0;
};

TEST_F(CudaReplayTest, ThirdCallOfAKeyIsAReplay) {
  for (int i = 0; i < 5; ++i) AddOnce(1);
  EXPECT_EQ(calls_, 2);
  EXPECT_EQ(Last(), 20);
}

TEST_F(CudaReplayTest, ReplayReadsWhatLiesThereNow) {
  for (int i = 0; i < 3; ++i) AddOnce(1);
  const float more[] = {10, 20, 30, 40};
  table_->Upload(more, sizeof more, in_->data());
  AddOnce(1);
  EXPECT_EQ(Last(), 3 * 4 + 40);
}

TEST_F(CudaReplayTest, KeysHaveRecordsOfTheirOwn) {
  for (int i = 0; i < 3; ++i) {
    for (int64_t key = 0; key < 100; ++key) AddOnce(key);
  }
  EXPECT_EQ(Last(), 4 * 300);
  // There are too many of them to keep.
  EXPECT_EQ(calls_, 300);
}

TEST_F(CudaReplayTest, GrownScratchMemoryEndsRecords) {
  for (int i = 0; i < 3; ++i) AddOnce(1);
  EXPECT_EQ(calls_, 2);
  // An op whose scratch memory is new.
  const int32_t tokens = 1, heads = 2, dim = 64, blocks = 40;
  const std::vector<float> zeros(int64_t{blocks} * 16 * heads * dim);
  const auto cache = Floats(zeros);
  const auto q = Floats(std::vector<float>(tokens * heads * dim));
  const auto result = Floats(std::vector<float>(tokens * heads * dim));
  const auto ints = [&](const std::vector<int32_t>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(int32_t));
    auto buffer = table_->Allocate(bytes).value();
    table_->Upload(values.data(), bytes, buffer->data());
    return buffer;
  };
  const auto cu_seqlens = ints({0, 1});
  const auto contexts = ints({600});
  const auto tables = ints(std::vector<int32_t>(blocks));
  PagedAttentionParams attention;
  attention.q = static_cast<float*>(q->data());
  attention.cu_seqlens_q = static_cast<int32_t*>(cu_seqlens->data());
  attention.context_lens = static_cast<int32_t*>(contexts->data());
  attention.block_tables = static_cast<int32_t*>(tables->data());
  attention.k_cache =
      ConstTensorView(cache->data(), DType::kF32, {blocks, 16, heads, dim});
  attention.v_cache = attention.k_cache;
  attention.out = static_cast<float*>(result->data());
  attention.num_seqs = 1;
  attention.max_blocks = blocks;
  attention.block_size = 16;
  attention.num_heads = heads;
  attention.num_kv_heads = heads;
  attention.head_dim = dim;
  attention.v_dim = dim;
  attention.scale = 1;
  table_->PagedAttention(attention);

  for (int i = 0; i < 3; ++i) AddOnce(1);
  EXPECT_EQ(calls_, 4);  // as it is and recorded, anew
  EXPECT_EQ(Last(), 24);
}

}  // namespace
}  // namespace shoal
