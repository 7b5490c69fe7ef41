// DeepSeek-V4's own ops: compressed entries and hyper-connections.
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

class CompressTest : public OpTest {
 protected:
  // All entries of one sequence, given in chunks of `chunk` tokens.
  std::vector<float> Entries(const std::vector<float>& values,
                             const std::vector<float>& gates,
                             const std::vector<float>& ape, int32_t ratio,
                             int32_t width, bool overlap, int32_t chunk) {
    const int64_t channels = overlap ? 2 * width : width;
    const auto tokens = static_cast<int32_t>(values.size() / channels);
    // What an earlier sequence left behind must not matter.
    std::vector<float> state(2 * CompressStateWidth(width, overlap), 7.0f);
    std::vector<float> entries;
    const int32_t slot = 1;
    for (int32_t first = 0; first < tokens; first += chunk) {
      const int32_t count = std::min(chunk, tokens - first);
      const int32_t cu_seqlens[] = {0, count};
      std::vector<int32_t> positions(count);
      int64_t closed = 0;
      for (int32_t i = 0; i < count; ++i) {
        positions[i] = first + i;
        if ((first + i + 1) % ratio == 0) ++closed;
      }
      std::vector<float> out(closed * width, NAN);
      CompressParams params;
      params.values = values.data() + first * channels;
      params.gates = gates.data() + first * channels;
      params.ape = ape.data();
      params.state = state.data();
      params.state_slots = &slot;
      params.cu_seqlens_q = cu_seqlens;
      params.positions = positions.data();
      params.num_seqs = 1;
      params.ratio = ratio;
      params.width = width;
      params.overlap = overlap;
      params.out = out.data();
      table_->Compress(params);
      entries.insert(entries.end(), out.begin(), out.end());
    }
    return entries;
  }
};

TEST_P(CompressTest, EntriesDoNotDependOnChunks) {
  Random random(8);
  for (const bool overlap : {false, true}) {
    for (const int32_t ratio : {1, 4, 9}) {
      for (const int32_t width : {3, 16, 37}) {
        const int64_t channels = overlap ? 2 * width : width;
        const int32_t tokens = 5 * ratio + ratio / 2;
        const auto values = random.Normals(tokens * channels);
        const auto gates = random.Normals(tokens * channels, 4.0f);
        const auto ape = random.Normals(ratio * channels);
        const auto whole =
            Entries(values, gates, ape, ratio, width, overlap, tokens);
        for (const int32_t chunk : {1, 2, 5}) {
          EXPECT_EQ(Entries(values, gates, ape, ratio, width, overlap, chunk),
                    whole);
        }
        ASSERT_EQ(whole.size(), size_t(tokens / ratio * width));
        for (int32_t w = 0; w < tokens / ratio; ++w) {
          for (int32_t c = 0; c < width; ++c) {
            double sum = 0, total = 0;
            const auto add = [&](int32_t token, int32_t channel) {
              const int64_t at = token * channels + channel;
              const double weight = std::exp(
                  double{gates[at]} + ape[token % ratio * channels + channel]);
              sum += weight * values[at];
              total += weight;
            };
            for (int32_t j = 0; j < ratio; ++j) {
              if (!overlap) {
                add(w * ratio + j, c);
                continue;
              }
              if (w > 0) add((w - 1) * ratio + j, c);
              add(w * ratio + j, width + c);
            }
            ASSERT_NEAR(whole[w * width + c], sum / total, 2e-5)
                << "overlap " << overlap << " window " << w << " channel " << c;
          }
        }
      }
    }
  }
}

INSTANTIATE_OP_TEST(CompressTest);

class HyperConnectionTest : public OpTest {};

TEST_P(HyperConnectionTest, MixAndExpand) {
  Random random(9);
  const float eps = 1e-6f;
  for (const int32_t m : {1, 2, 4}) {
    for (const int64_t hidden : {5, 16, 67}) {
      const int64_t tokens = 3, width = (2 + m) * m;
      const auto streams = random.Normals(tokens * m * hidden);
      const auto mixing = random.Normals(tokens * width);
      const auto base = random.Normals(width);
      const std::vector<float> scale = {0.7f, 1.3f, 2.0f};
      std::vector<float> out(tokens * hidden, NAN), post(tokens * m, NAN);
      std::vector<float> comb(tokens * m * m, NAN);
      HyperMixParams mix;
      mix.streams = streams.data();
      mix.mixing = mixing.data();
      mix.base = base.data();
      mix.scale = scale.data();
      mix.num_tokens = tokens;
      mix.hidden_size = hidden;
      mix.m = m;
      mix.sinkhorn_iters = 5;
      mix.eps = eps;
      mix.out = out.data();
      mix.post = post.data();
      mix.comb = comb.data();
      table_->HyperMix(mix);
      const auto y = random.Normals(tokens * hidden);
      std::vector<float> expanded = streams;
      table_->HyperExpand({y.data(), post.data(), comb.data(), tokens, hidden,
                           m, expanded.data()});

      const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
      for (int64_t t = 0; t < tokens; ++t) {
        const float* u = mixing.data() + t * width;
        const float* x = streams.data() + t * m * hidden;
        std::vector<std::vector<double>> c(m, std::vector<double>(m));
        for (int32_t i = 0; i < m; ++i) {
          double total = 0;
          for (int32_t j = 0; j < m; ++j) {
            const int32_t at = 2 * m + i * m + j;
            c[i][j] = std::exp(u[at] * double{scale[2]} + base[at]);
            total += c[i][j];
          }
          for (double& value : c[i]) value = value / total + eps;
        }
        const auto columns = [&] {
          for (int32_t j = 0; j < m; ++j) {
            double total = eps;
            for (int32_t i = 0; i < m; ++i) total += c[i][j];
            for (int32_t i = 0; i < m; ++i) c[i][j] /= total;
          }
        };
        columns();
        for (int i = 1; i < 5; ++i) {
          for (auto& row : c) {
            double total = eps;
            for (const double value : row) total += value;
            for (double& value : row) value /= total;
          }
          columns();
        }
        for (int64_t i = 0; i < hidden; ++i) {
          double mixed = 0;
          for (int32_t j = 0; j < m; ++j) {
            mixed += (sigmoid(u[j] * double{scale[0]} + base[j]) + eps) *
                     x[j * hidden + i];
          }
          ASSERT_NEAR(out[t * hidden + i], mixed, 2e-5);
          for (int32_t k = 0; k < m; ++k) {
            double sum = 2 *
                         sigmoid(u[m + k] * double{scale[1]} + base[m + k]) *
                         y[t * hidden + i];
            for (int32_t j = 0; j < m; ++j) {
              sum += c[j][k] * x[j * hidden + i];
            }
            ASSERT_NEAR(expanded[(t * m + k) * hidden + i], sum, 2e-5);
          }
        }
      }
    }
  }
}

INSTANTIATE_OP_TEST(HyperConnectionTest);

}  // namespace
}  // namespace shoal
