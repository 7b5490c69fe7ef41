#include "tests/simt/fiber.h"

#include <sys/mman.h>

#include "kernels/check.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace shoal::simt {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kGuardBytes = 4 << 10;

Fiber* starting = nullptr;  // the fiber whose first Resume() is under way

}  // namespace

#if defined(__x86_64__)

// Saves the callee-saved registers on the present stack, puts its pointer into
// *save and goes on with the stack `load`.
extern "C" void ShoalSimtSwitch(void** save, void* load);
asm(R"(
.text
.globl ShoalSimtSwitch
.type ShoalSimtSwitch,@function
ShoalSimtSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ShoalSimtSwitch,.-ShoalSimtSwitch
.section .note.GNU-stack,"",@progbits
.text
)");

struct Fiber::Context {
  uint8_t* map = nullptr;
  void* own = nullptr;  // stack pointers
  void* caller = nullptr;

  void Prepare(void (*entry)()) {
    auto* top = reinterpret_cast<uintptr_t*>(map + kGuardBytes + kStackBytes);
    *--top = 0;  // keeps the stack aligned as after a call
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; ++i) *--top = 0;
    own = top;
  }
  void SwitchIn() { ShoalSimtSwitch(&caller, own); }
  void SwitchOut() { ShoalSimtSwitch(&own, caller); }
};

#else

struct Fiber::Context {
  uint8_t* map = nullptr;
  ucontext_t own, caller;

  void Prepare(void (*entry)()) {
    getcontext(&own);
    own.uc_stack.ss_sp = map + kGuardBytes;
    own.uc_stack.ss_size = kStackBytes;
    own.uc_link = nullptr;
    makecontext(&own, entry, 0);
  }
  void SwitchIn() { swapcontext(&caller, &own); }
  void SwitchOut() { swapcontext(&own, &caller); }
};

#endif

Fiber::Fiber() : context_(std::make_unique<Context>()) {
  void* map = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  SHOAL_CHECK(map != MAP_FAILED);
  SHOAL_CHECK(mprotect(map, kGuardBytes, PROT_NONE) == 0);
  context_->map = static_cast<uint8_t*>(map);
}

Fiber::~Fiber() { munmap(context_->map, kGuardBytes + kStackBytes); }

void Fiber::Start(void (*function)(void*), void* argument) {
  SHOAL_CHECK(done_);
  function_ = function;
  argument_ = argument;
  done_ = false;
  context_->Prepare(&Fiber::Enter);
}

#if defined(__SANITIZE_ADDRESS__)
namespace {
// The resuming thread's own stack, as the sanitizer knows it.
const void* outer_bottom = nullptr;
size_t outer_bytes = 0;
}  // namespace

bool Fiber::Resume() {
  starting = this;
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, context_->map + kGuardBytes,
                                 kStackBytes);
  context_->SwitchIn();
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
  return done_;
}

void Fiber::Yield() {
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(done_ ? nullptr : &fake, outer_bottom,
                                 outer_bytes);
  context_->SwitchOut();
  __sanitizer_finish_switch_fiber(fake, &outer_bottom, &outer_bytes);
}

void Fiber::Enter() {
  __sanitizer_finish_switch_fiber(nullptr, &outer_bottom, &outer_bytes);
  Fiber* fiber = starting;
  fiber->function_(fiber->argument_);
  fiber->done_ = true;
  fiber->Yield();
}
#else
bool Fiber::Resume() {
  starting = this;
  context_->SwitchIn();
  return done_;
}

void Fiber::Yield() { context_->SwitchOut(); }

void Fiber::Enter() {
  Fiber* fiber = starting;
  fiber->function_(fiber->argument_);
  fiber->done_ = true;
  fiber->Yield();
}
#endif

}  // namespace shoal::simt
