// The files that are fuzzed: every golden model of both containers, and
// synthetic ones with what no golden has: shards with their index, tokenizers,
// 4-bit blocks, the GGUF forms of the newer architectures.
#pragma once

#include <string>
#include <vector>

namespace shoal {

// One file of one model.
struct FuzzTarget {
  std::string
      source;        // below tests/golden, or "GEOMETRY FORMAT" of shoal synth
  std::string file;  // what is damaged, in the copy; "" if the model is a file
  bool free_text = false;  // the file has no structure that could break

  std::string name() const;
  // The golden GGUF files hold a placeholder where a vocabulary should be.
  bool has_text() const;
  // Path of the model that Make(folder) wrote.
  std::string ModelPath(const std::string& folder) const;
  // Writes a copy of the model into the new `folder`. Aborts if it cannot.
  void Make(const std::string& folder) const;
};

std::vector<FuzzTarget> FuzzTargets();

}  // namespace shoal
