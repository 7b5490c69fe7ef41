// SHOAL_CHECK guards invariants of our own code: a failure is a bug, never bad
// input, so it prints the place and aborts. Input, capacity and I/O faults are
// absl::Status everywhere.
#pragma once

#include <cstdio>
#include <cstdlib>

#define SHOAL_CHECK(condition)                                        \
  do {                                                                \
    if (!(condition)) [[unlikely]] {                                  \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, \
                   __LINE__, #condition);                             \
      std::abort();                                                   \
    }                                                                 \
  } while (false)
