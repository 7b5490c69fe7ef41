// The CPU's tables: every instruction set that this machine runs, and a checked
// one over the best of them.
#include "tests/engine/golden_model.h"

namespace shoal {

std::vector<TestTable> EngineTables() {
  const std::vector<CpuIsa> isas = RunnableIsas();
  return {isas.begin(), isas.end()};
}

std::vector<TestTable> AllTables() {
  std::vector<TestTable> tables = EngineTables();
  tables.emplace_back(RunnableIsas().back(), /*checked=*/true);
  return tables;
}

std::vector<TestTable> TablesOfEachMemory() {
  const CpuIsa best = RunnableIsas().back();
  return {best, TestTable(best, /*checked=*/true)};
}

}  // namespace shoal
