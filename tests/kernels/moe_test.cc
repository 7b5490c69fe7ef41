// Routing and expert products against plain double precision.
#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

struct RouteCase {
  RouterScoring scoring;
  GroupScore group_score;
  int32_t experts, top_k, n_group, topk_group;
  bool bias, normalize;
  float factor;
};

double Score(RouterScoring scoring, double z) {
  switch (scoring) {
    case RouterScoring::kSoftmax:
      return std::exp(z);  // normalised by the caller
    case RouterScoring::kSigmoid:
      return 1 / (1 + std::exp(-z));
    case RouterScoring::kSqrtSoftplus:
      return std::sqrt(std::log1p(std::exp(z)));
  }
  return 0;
}

// Chosen experts in rising order with their weights.
std::vector<std::pair<int32_t, double>> Route(const RouteCase& c,
                                              const float* logits,
                                              const float* bias,
                                              const int32_t* forced) {
  std::vector<double> scores(c.experts);
  double total = 0;
  for (int32_t e = 0; e < c.experts; ++e) {
    total += scores[e] = Score(c.scoring, logits[e]);
  }
  if (c.scoring == RouterScoring::kSoftmax) {
    for (double& score : scores) score /= total;
  }
  std::vector<int32_t> chosen;
  if (forced != nullptr) {
    chosen.assign(forced, forced + c.top_k);
  } else {
    std::vector<double> values = scores;
    for (int32_t e = 0; bias != nullptr && e < c.experts; ++e) {
      values[e] += bias[e];
    }
    const int32_t size = c.experts / c.n_group;
    std::vector<std::pair<double, int32_t>> groups;
    for (int32_t g = 0; g < c.n_group; ++g) {
      std::vector<double> part(values.begin() + g * size,
                               values.begin() + (g + 1) * size);
      std::sort(part.rbegin(), part.rend());
      const double worth =
          c.group_score == GroupScore::kMax ? part[0] : part[0] + part[1];
      groups.emplace_back(-worth, g);
    }
    std::sort(groups.begin(), groups.end());
    std::vector<std::pair<double, int32_t>> allowed;
    for (int32_t i = 0; i < c.topk_group; ++i) {
      for (int32_t e = groups[i].second * size;
           e < (groups[i].second + 1) * size; ++e) {
        allowed.emplace_back(-values[e], e);
      }
    }
    std::sort(allowed.begin(), allowed.end());
    for (int32_t k = 0; k < c.top_k; ++k) chosen.push_back(allowed[k].second);
  }
  double sum = 1e-20;
  for (const int32_t e : chosen) sum += scores[e];
  std::vector<std::pair<int32_t, double>> result;
  for (const int32_t e : chosen) {
    result.emplace_back(e, scores[e] / (c.normalize ? sum : 1.0) * c.factor);
  }
  std::sort(result.begin(), result.end());
  return result;
}

class MoeTest : public OpTest {};

TEST_P(MoeTest, RoutesAsTheReference) {
  Random random(21);
  using S = RouterScoring;
  using G = GroupScore;
  const RouteCase cases[] = {
      {S::kSoftmax, G::kMax, 64, 6, 1, 1, false, false, 1.0f},
      {S::kSoftmax, G::kMax, 40, 6, 8, 3, false, false, 16.0f},
      {S::kSigmoid, G::kTopTwoSum, 32, 8, 8, 4, true, true, 2.5f},
      {S::kSqrtSoftplus, G::kMax, 12, 3, 1, 1, true, true, 1.5f},
      {S::kSigmoid, G::kTopTwoSum, 7, 7, 1, 1, true, false, 1.0f},
  };
  for (const RouteCase& c : cases) {
    for (const bool forced : {false, true}) {
      const int64_t tokens = 37;
      auto logits = random.Normals(tokens * c.experts, 2.0f);
      const auto bias = random.Normals(c.experts, 0.3f);
      std::vector<int32_t> forced_ids;
      for (int64_t t = 0; t < tokens; ++t) {
        std::vector<int32_t> all(c.experts);
        std::iota(all.begin(), all.end(), 0);
        std::shuffle(all.begin(), all.end(), random.engine());
        forced_ids.insert(forced_ids.end(), all.begin(), all.begin() + c.top_k);
      }
      std::vector<int32_t> ids(tokens * c.top_k, -1);
      std::vector<float> weights(tokens * c.top_k, NAN);
      MoeRouteParams params;
      params.logits = logits.data();
      params.bias = c.bias ? bias.data() : nullptr;
      params.forced_ids = forced ? forced_ids.data() : nullptr;
      params.num_tokens = tokens;
      params.num_experts = c.experts;
      params.top_k = c.top_k;
      params.n_group = c.n_group;
      params.topk_group = c.topk_group;
      params.scoring = c.scoring;
      params.group_score = c.group_score;
      params.norm_topk_prob = c.normalize;
      params.routed_scaling_factor = c.factor;
      params.expert_ids = ids.data();
      params.expert_weights = weights.data();
      table_->MoeRoute(params);
      for (int64_t t = 0; t < tokens; ++t) {
        const auto expected =
            Route(c, logits.data() + t * c.experts, params.bias,
                  forced ? forced_ids.data() + t * c.top_k : nullptr);
        std::vector<std::pair<int32_t, double>> got;
        for (int32_t k = 0; k < c.top_k; ++k) {
          got.emplace_back(ids[t * c.top_k + k], weights[t * c.top_k + k]);
        }
        std::sort(got.begin(), got.end());
        for (int32_t k = 0; k < c.top_k; ++k) {
          ASSERT_EQ(got[k].first, expected[k].first) << "token " << t;
          ASSERT_NEAR(got[k].second, expected[k].second, 1e-5 * c.factor);
        }
      }
    }
  }
}

// With a router, few tokens or many: what two ops give.
TEST_P(MoeTest, RouterMakesTheLogits) {
  Random random(24);
  const int64_t hidden = 96;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
    for (const int32_t experts : {7, 64}) {
      const StoredWeight stored = MakeWeight(dtype, experts, hidden, random);
      const auto router = table_->Pack(stored.view, Precision::kExact);
      ASSERT_TRUE(router.ok()) << router.status();
      const auto bias = random.Normals(experts, 0.3f);
      for (const int64_t tokens : {1, 2, 8, 9, 37}) {
        SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " " << experts
                                        << " tokens " << tokens);
        const auto in = random.Normals(tokens * hidden);
        MoeRouteParams params;
        params.bias = bias.data();
        params.num_tokens = tokens;
        params.num_experts = experts;
        params.top_k = 3;
        params.scoring = RouterScoring::kSigmoid;
        params.norm_topk_prob = true;
        struct Result {
          std::vector<float> logits, weights;
          std::vector<int32_t> ids;
        };
        Result results[2];
        for (Result& result : results) {
          result.logits.assign(tokens * experts, NAN);
          result.weights.assign(tokens * params.top_k, NAN);
          result.ids.assign(tokens * params.top_k, -1);
          params.logits = result.logits.data();
          params.expert_ids = result.ids.data();
          params.expert_weights = result.weights.data();
          if (&result == results) {
            const LinearPart part = {router->get(), nullptr, params.logits};
            table_->Linear({in.data(), tokens, hidden, {&part, 1}});
          } else {
            params.router = router->get();
            params.in = in.data();
          }
          table_->MoeRoute(params);
        }
        EXPECT_EQ(results[1].logits, results[0].logits);
        EXPECT_EQ(results[1].ids, results[0].ids);
        EXPECT_EQ(results[1].weights, results[0].weights);
      }
    }
  }
}

// What tokens chose of which experts.
struct Choices {
  const std::vector<float>& x;        // [tokens, hidden]
  const std::vector<int32_t>& ids;    // [tokens, top_k]
  const std::vector<float>& factors;  // like ids
  const std::vector<ExpertWeights>& weights;
  int64_t hidden, inner;
  int32_t top_k;

  // Of `count` tokens from `first` on.
  MoeExpertsParams Params(int64_t first, int64_t count, float* out) const {
    MoeExpertsParams params;
    params.in = x.data() + first * hidden;
    params.expert_ids = ids.data() + first * top_k;
    params.expert_weights = factors.data() + first * top_k;
    params.experts = weights;
    params.num_tokens = count;
    params.top_k = top_k;
    params.hidden_size = hidden;
    params.intermediate_size = inner;
    params.out = out;
    return params;
  }
};

struct ExpertCase {
  DType dtype;
  Precision precision;
  float limit;
  double tolerance;  // of a row, relative to its norm
};

TEST_P(MoeTest, ExpertsAsTheReferenceAndAloneAsInABatch) {
  Random random(22);
  const int64_t hidden = 64, inner = 96, experts = 5, tokens = 9;
  const int32_t top_k = 2;
  for (const ExpertCase& c :
       {ExpertCase{DType::kF32, Precision::kExact, 0, 1e-5},
        ExpertCase{DType::kBF16, Precision::kFast, 0, 1e-3},
        ExpertCase{DType::kF8E4M3, Precision::kFast, 0.05f, 1e-5},
        ExpertCase{DType::kF4E2M1, Precision::kExact, 0, 1e-5},
        ExpertCase{DType::kQ8_0, Precision::kFast, 0, 0.02},
        ExpertCase{DType::kQ4_0, Precision::kExact, 0.05f, 1e-5}}) {
    std::vector<StoredWeight> stored;
    std::vector<std::unique_ptr<PackedMatrix>> packed;
    stored.reserve(3 * experts);
    std::vector<ExpertWeights> weights;
    for (int64_t i = 0; i < 3 * experts; ++i) {
      const bool down = i % 3 == 2;
      stored.push_back(MakeWeight(c.dtype, down ? hidden : inner,
                                  down ? inner : hidden, random));
      auto matrix = table_->Pack(stored.back().view, c.precision);
      ASSERT_TRUE(matrix.ok()) << matrix.status();
      packed.push_back(*std::move(matrix));
      if (down) {
        weights.push_back(
            {packed[i - 2].get(), packed[i - 1].get(), packed[i].get()});
      }
    }
    const auto x = random.Normals(tokens * hidden);
    const auto base = random.Normals(tokens * hidden);
    std::vector<int32_t> ids;
    std::vector<float> factors;
    for (int64_t t = 0; t < tokens; ++t) {
      const auto first = static_cast<int32_t>(random.Integer(0, experts - 2));
      ids.push_back(first);
      // Expert 4 is left out once, token 3 has one expert only.
      ids.push_back(t == 3 ? -1 : first + 1);
      factors.push_back(random.Normal());
      factors.push_back(random.Normal());
    }
    const Choices choices = {x, ids, factors, weights, hidden, inner, top_k};
    const auto run = [&](int64_t first, int64_t count) {
      std::vector<float> out(base.begin() + first * hidden,
                             base.begin() + (first + count) * hidden);
      MoeExpertsParams params = choices.Params(first, count, out.data());
      params.swiglu_limit = c.limit;
      table_->MoeExperts(params);
      return out;
    };
    const std::vector<float> out = run(0, tokens);
    // Experts that lie elsewhere are as those that nobody chose.
    const std::vector<ExpertWeights> all_weights = weights;
    const std::vector<int32_t> all_ids = ids;
    for (const auto& away : std::vector<std::vector<int32_t>>{
             {0}, {1, 3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}}) {
      for (const int32_t e : away) std::replace(ids.begin(), ids.end(), e, -1);
      const std::vector<float> expected = run(0, tokens);
      ids = all_ids;
      for (const int32_t e : away) weights[e] = {};
      EXPECT_EQ(run(0, tokens), expected);
      weights = all_weights;
    }
    for (int64_t t = 0; t < tokens; ++t) {
      EXPECT_EQ(run(t, 1), std::vector<float>(out.begin() + t * hidden,
                                              out.begin() + (t + 1) * hidden))
          << "token " << t;
      std::vector<double> expected(base.begin() + t * hidden,
                                   base.begin() + (t + 1) * hidden);
      for (int32_t k = 0; k < top_k; ++k) {
        const int32_t e = ids[t * top_k + k];
        if (e < 0) continue;
        const auto gate = stored[3 * e].Dequantized();
        const auto up = stored[3 * e + 1].Dequantized();
        const auto down = stored[3 * e + 2].Dequantized();
        for (int64_t i = 0; i < inner; ++i) {
          double g = 0, u = 0;
          for (int64_t j = 0; j < hidden; ++j) {
            g += double{gate[i * hidden + j]} * x[t * hidden + j];
            u += double{up[i * hidden + j]} * x[t * hidden + j];
          }
          if (c.limit > 0) {
            g = std::min<double>(g, c.limit);
            u = std::clamp<double>(u, -c.limit, c.limit);
          }
          const double a = g / (1 + std::exp(-g)) * u;
          for (int64_t o = 0; o < hidden; ++o) {
            expected[o] += factors[t * top_k + k] * a * down[o * inner + i];
          }
        }
      }
      double error = 0, norm = 0;
      for (int64_t o = 0; o < hidden; ++o) {
        const double difference = out[t * hidden + o] - expected[o];
        error += difference * difference;
        norm += expected[o] * expected[o];
      }
      EXPECT_LE(std::sqrt(error / norm),
                c.tolerance + 4 * GetParam().fast_error)
          << std::string(DTypeName(c.dtype)) << " token " << t;
    }
  }
}

// Few rows an expert, listed or sorted, and enough for the kernels of a
// prefill; most of them are of one expert.
TEST_P(MoeTest, ManyTokensAreEachAsAlone) {
  Random random(23);
  const int64_t hidden = 128, inner = 256, tokens = 170;
  const int32_t top_k = 2;
  for (const auto& [dtype, experts] :
       {std::pair{DType::kBF16, 5}, std::pair{DType::kF8E4M3, 5},
        std::pair{DType::kQ4_0, 5}, std::pair{DType::kBF16, 12}}) {
    SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " of " << experts);
    std::vector<StoredWeight> stored;
    std::vector<std::unique_ptr<PackedMatrix>> packed;
    stored.reserve(3 * experts);
    std::vector<ExpertWeights> weights;
    for (int64_t e = 0; e < experts; ++e) {
      for (const bool down : {false, false, true}) {
        stored.push_back(MakeWeight(dtype, down ? hidden : inner,
                                    down ? inner : hidden, random));
        auto matrix = table_->Pack(stored.back().view, Precision::kFast);
        ASSERT_TRUE(matrix.ok()) << matrix.status();
        packed.push_back(*std::move(matrix));
      }
      weights.push_back({packed[3 * e].get(), packed[3 * e + 1].get(),
                         packed[3 * e + 2].get()});
    }
    const auto x = random.Normals(tokens * hidden);
    const auto factors = random.Normals(tokens * top_k);
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens; ++t) {
      ids.push_back(0);
      ids.push_back(static_cast<int32_t>(random.Integer(1, experts - 2)));
    }
    const Choices choices = {x, ids, factors, weights, hidden, inner, top_k};
    const auto run = [&](int64_t first, int64_t count) {
      std::vector<float> out(count * hidden, 1.0f);
      table_->MoeExperts(choices.Params(first, count, out.data()));
      return out;
    };
    std::vector<std::vector<float>> outs;
    const int64_t counts[] = {8, 32, 40, tokens};
    for (const int64_t count : counts) outs.push_back(run(0, count));
    // Alone some: the first and one of eight.
    for (int64_t t = 0; t < tokens; t += t < 8 ? 1 : 8) {
      const std::vector<float> alone = run(t, 1);
      for (size_t i = 0; i < outs.size(); ++i) {
        if (t >= counts[i]) continue;
        const float* row = &outs[i][t * hidden];
        EXPECT_EQ(std::vector<float>(row, row + hidden), alone)
            << t << " of " << counts[i] << " tokens";
      }
    }
  }
}

// The bits of the ops that stand for it, beside the routed experts or not.
TEST_P(MoeTest, SharedExpertsAreAddedLast) {
  Random random(25);
  const int64_t hidden = 64, inner = 96, shared_inner = 224;
  const int32_t top_k = 2, experts = 6;
  struct Case {
    DType dtype, shared_dtype;
    Precision precision;
  };
  for (const Case& c : {Case{DType::kBF16, DType::kBF16, Precision::kFast},
                        Case{DType::kQ4_0, DType::kQ4_0, Precision::kFast},
                        Case{DType::kQ4_0, DType::kBF16, Precision::kFast},
                        Case{DType::kF32, DType::kF32, Precision::kExact}}) {
    std::vector<StoredWeight> stored;
    std::vector<std::unique_ptr<PackedMatrix>> packed;
    stored.reserve(3 * (experts + 1));
    const auto expert = [&](DType dtype, int64_t width) {
      for (const bool down : {false, false, true}) {
        stored.push_back(MakeWeight(dtype, down ? hidden : width,
                                    down ? width : hidden, random));
        packed.push_back(*table_->Pack(stored.back().view, c.precision));
      }
      const auto last = packed.end();
      return ExpertWeights{last[-3].get(), last[-2].get(), last[-1].get()};
    };
    std::vector<ExpertWeights> weights;
    for (int32_t e = 0; e < experts; ++e) {
      weights.push_back(expert(c.dtype, inner));
    }
    const ExpertWeights shared = expert(c.shared_dtype, shared_inner);
    for (const int64_t tokens : {1, 5, 9, 40}) {
      SCOPED_TRACE(testing::Message()
                   << DTypeName(c.dtype) << " " << DTypeName(c.shared_dtype)
                   << " tokens " << tokens);
      const auto x = random.Normals(tokens * hidden);
      const auto factors = random.Normals(tokens * top_k);
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < tokens; ++t) {
        const auto first = static_cast<int32_t>(random.Integer(0, experts - 2));
        ids.push_back(first);
        ids.push_back(first + 1);
      }
      std::vector<ExpertWeights> here = weights;
      const Choices choices = {x, ids, factors, here, hidden, inner, top_k};
      std::vector<float> scratch(2 * tokens * shared_inner);
      const std::vector<float> base = random.Normals(tokens * hidden);
      for (const bool any_here : {true, false}) {
        if (!any_here) here.assign(experts, ExpertWeights());
        std::vector<float> expected = base, out = base;
        MoeExpertsParams params = choices.Params(0, tokens, expected.data());
        params.swiglu_limit = 1.5f;
        table_->MoeExperts(params);
        float* gate = scratch.data();
        table_->GatedLinear({x.data(),
                             tokens,
                             hidden,
                             {shared.gate, nullptr, gate},
                             {shared.up, nullptr, gate + tokens * shared_inner},
                             params.swiglu_limit});
        const LinearPart down = {shared.down, nullptr, expected.data(), true};
        table_->Linear({gate, tokens, shared_inner, {&down, 1}});
        params.out = out.data();
        params.shared = shared;
        params.shared_scratch = scratch.data();
        table_->MoeExperts(params);
        EXPECT_EQ(out, expected);
      }
    }
  }
}

INSTANTIATE_PRODUCT_TEST(MoeTest);

}  // namespace
}  // namespace shoal
