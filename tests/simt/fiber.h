// Fiber is a stack of its own that runs a function until it gives control back:
// what a CUDA thread is under the shim. Costs some nanoseconds a switch.
// Threads: all fibers belong to the thread that resumes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace shoal::simt {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next Resume() call function(argument). The stack is used again:
  // whatever ran on it must have returned.
  void Start(void (*function)(void*), void* argument);
  // Runs it until it yields or returns; true once it has returned.
  bool Resume();
  // Called on the fiber: back to where Resume() was called.
  void Yield();

 private:
  struct Context;

  static void Enter();

  std::unique_ptr<Context> context_;
  void (*function_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool done_ = true;
};

}  // namespace shoal::simt
