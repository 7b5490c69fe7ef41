// The metric families of a model's experts: where they lie, where their work is
// done, what is carried and how evenly they are chosen.
#pragma once

#include "engine/experts/expert_stats.h"
#include "server/metrics_families.h"

namespace shoal {

class ExpertFamilies {
 public:
  explicit ExpertFamilies(FamilyMaker make);

  // Takes the counts since the start. Threads: one caller at a time.
  void Update(const ExpertStats& stats);

 private:
  Series<Gauge, 2> experts_;    // device, host
  Series<Gauge, 2> bytes_;      // device, host
  Series<Counter, 3> choices_;  // device, host, streamed
  Series<Counter, 2> carried_;  // placement, streaming
  Counter& stall_seconds_;
  Series<Gauge, 3> imbalance_;  // smallest, median, largest layer
  ExpertStats last_;
};

}  // namespace shoal
