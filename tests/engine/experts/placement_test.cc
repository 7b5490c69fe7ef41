#include "engine/experts/placement.h"

#include <gmock/gmock.h>

#include <random>
#include <vector>

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

int64_t BytesOn(const ExpertSizes& sizes, const Residency& residency) {
  int64_t bytes = 0;
  for (int64_t e = 0; e < sizes.count(); ++e) {
    if (residency[e]) bytes += sizes.bytes(e);
  }
  return bytes;
}

ExpertMove Load(int64_t expert) { return {expert, true}; }
ExpertMove Drop(int64_t expert) { return {expert, false}; }

// Room for all that may be wanted, no guard against noise.
MoveLimits Limits(int64_t budget) {
  return {.budget = budget,
          .max_bytes = int64_t{1} << 40,
          .hysteresis = 0,
          .min_choices = 0};
}

TEST(PlacementTest, UniformTakesAsManyOfEveryLayer) {
  const ExpertSizes sizes = {{10, 10}, 3};
  EXPECT_THAT(UniformPlacement(sizes, 0),
              ElementsAre(false, false, false, false, false, false));
  EXPECT_THAT(UniformPlacement(sizes, 25),
              ElementsAre(true, false, false, true, false, false));
  EXPECT_THAT(UniformPlacement(sizes, 30),
              ElementsAre(true, true, false, true, false, false));
  EXPECT_THAT(UniformPlacement(sizes, sizes.total_bytes()),
              ElementsAre(true, true, true, true, true, true));
}

TEST(PlacementTest, TheHottestComeFirst) {
  const ExpertSizes sizes = {{10, 10}, 2};
  const std::vector<float> load = {1, 9, 0, 7};
  EXPECT_THAT(PlanMoves(sizes, Residency(4), load, Limits(20)),
              ElementsAre(Load(1), Load(3)));
  EXPECT_THAT(PlanMoves(sizes, Residency(4), load, Limits(100)),
              ElementsAre(Load(1), Load(3), Load(0)));
  EXPECT_THAT(PlanMoves(sizes, Residency(4), load, Limits(9)), IsEmpty());
}

TEST(PlacementTest, TheColdestMakeRoom) {
  const ExpertSizes sizes = {{10}, 4};
  const std::vector<float> load = {3, 1, 9, 2};
  const Residency residency = {true, true, false, false};
  EXPECT_THAT(PlanMoves(sizes, residency, load, Limits(20)),
              ElementsAre(Drop(1), Load(2)));
  // With room for a third, nobody leaves for the first.
  EXPECT_THAT(PlanMoves(sizes, residency, load, Limits(30)),
              ElementsAre(Load(2), Drop(1), Load(3)));
}

TEST(PlacementTest, LoadIsWeighedByBytes) {
  // An expert of layer 0 takes the room of two of layer 1.
  EXPECT_THAT(PlanMoves({{20, 10}, 2}, {true, false, false, false},
                        {{10, 0, 6, 4}}, Limits(20)),
              ElementsAre(Drop(0), Load(2), Load(3)));
  EXPECT_THAT(PlanMoves({{20, 10}, 2}, {false, false, true, true},
                        {{30, 0, 6, 4}}, Limits(20)),
              ElementsAre(Drop(3), Drop(2), Load(0)));
}

TEST(PlacementTest, NoiseMovesNothing) {
  const ExpertSizes sizes = {{10}, 2};
  MoveLimits limits = Limits(10);
  limits.hysteresis = 0.25;
  EXPECT_THAT(PlanMoves(sizes, {true, false}, {{100, 124}}, limits), IsEmpty());
  EXPECT_THAT(PlanMoves(sizes, {true, false}, {{100, 126}}, limits),
              ElementsAre(Drop(0), Load(1)));
  limits.min_choices = 30;
  EXPECT_THAT(PlanMoves(sizes, {true, false}, {{100, 126}}, limits), IsEmpty());
}

TEST(PlacementTest, BytesCarriedAreBounded) {
  const ExpertSizes sizes = {{10}, 4};
  MoveLimits limits = Limits(40);
  limits.max_bytes = 25;
  EXPECT_THAT(PlanMoves(sizes, Residency(4), {{1, 2, 3, 4}}, limits),
              ElementsAre(Load(3), Load(2)));
  limits.max_bytes = 5;  // one may always move
  EXPECT_THAT(PlanMoves(sizes, Residency(4), {{1, 2, 3, 4}}, limits),
              ElementsAre(Load(3)));
}

// Whatever the sizes, loads and limits: moves are of experts that can make
// them, the budget holds after each, and repeated plans come to rest.
TEST(PlacementTest, MovesKeepTheBudgetAndComeToRest) {
  for (int seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    ExpertSizes sizes;
    sizes.num_experts = 1 + random() % 12;
    for (size_t i = 1 + random() % 5; i > 0; --i) {
      sizes.layer_bytes.push_back(1 + random() % 50);
    }
    std::vector<float> load(sizes.count());
    for (float& l : load) l = static_cast<float>(random() % 100);
    MoveLimits limits;
    limits.budget = random() % (sizes.total_bytes() + 20);
    limits.max_bytes = 1 + random() % 200;
    Residency residency = UniformPlacement(sizes, limits.budget);
    ASSERT_LE(BytesOn(sizes, residency), limits.budget);
    int rounds = 0;
    for (;; ++rounds) {
      const auto moves = PlanMoves(sizes, residency, load, limits);
      if (moves.empty()) break;
      ASSERT_LT(rounds, 1000) << "seed " << seed;
      for (const ExpertMove& move : moves) {
        ASSERT_NE(residency[move.expert], move.to_device);
        residency[move.expert] = move.to_device;
        if (move.to_device) {
          ASSERT_LE(BytesOn(sizes, residency), limits.budget);
        }
      }
      ASSERT_TRUE(moves.back().to_device);
    }
  }
}

TEST(PlacementTest, TheHostIsBoundByMemoryOrArithmetic) {
  const TierSpeeds speeds = {
      .host_bytes = 100, .host_macs = 1000, .link_bytes = 20};
  EXPECT_DOUBLE_EQ(HostSeconds(speeds, 200, 400, 1), 2);
  EXPECT_DOUBLE_EQ(HostSeconds(speeds, 200, 400, 5), 2);
  EXPECT_DOUBLE_EQ(HostSeconds(speeds, 200, 400, 50), 20);
  EXPECT_FALSE(IsStreamed(speeds, 200, 400, 1));   // 10 s by the link
  EXPECT_FALSE(IsStreamed(speeds, 200, 400, 25));  // as long: stays
  EXPECT_TRUE(IsStreamed(speeds, 200, 400, 26));
}

TEST(PlacementTest, CapacityIsAShareOfTheChoices) {
  EXPECT_EQ(ExpertCapacity(1.5, 80, 8), 15);
  EXPECT_EQ(ExpertCapacity(1.05, 80, 8), 11);
  EXPECT_EQ(ExpertCapacity(1.5, 2, 8), 1);
  EXPECT_GT(ExpertCapacity(0, 80, 8), 80);
}

TEST(PlacementTest, ImbalanceIsTheSpreadOverTheMean) {
  EXPECT_EQ(Imbalance({}), 0);
  EXPECT_EQ(Imbalance(std::vector<float>{0, 0}), 0);
  EXPECT_EQ(Imbalance(std::vector<float>{5, 5, 5}), 0);
  EXPECT_DOUBLE_EQ(Imbalance(std::vector<float>{0, 4}), 1);
}

}  // namespace
}  // namespace shoal
