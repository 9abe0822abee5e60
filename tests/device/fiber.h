// Fibers, and what the sanitizers must know about them. Included by simt_machine.cpp alone, which
// is compiled without sanitizers: FASTGPU_RUN_UNDER_TSAN and _ASAN say what the rest of the program
// has.
//
// To the thread sanitizer a fiber is a thread of its own. A switch orders nothing; only release()
// and acquire() do. So it finds two accesses that nothing orders, although fibers never run at the
// same time. Threading: a fiber stays in one thread.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <memory>

#if defined(FASTGPU_RUN_UNDER_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* key);
void __tsan_release(void* key);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif
#if defined(FASTGPU_RUN_UNDER_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastgpu::simt {

// A thread as the thread sanitizer sees it. Its creation happens before all its actions.
class Context {
 public:
#if defined(FASTGPU_RUN_UNDER_TSAN)
  static Context make() { return Context(__tsan_create_fiber(0)); }
  static Context current() { return Context(__tsan_get_current_fiber()); }
  void end() { __tsan_destroy_fiber(handle_); }
  void enter() const { __tsan_switch_to_fiber(handle_, 1 /* which orders nothing */); }
#else
  static Context make() { return Context(nullptr); }
  static Context current() { return Context(nullptr); }
  void end() {}
  void enter() const {}
#endif

 private:
  explicit Context(void* handle) : handle_(handle) {}
  void* handle_;
};

// A release() synchronizes with every later acquire() of the same key.
struct OrderKey {
#if defined(FASTGPU_RUN_UNDER_TSAN)
  void release() { __tsan_release(this); }
  void acquire() { __tsan_acquire(this); }
#else
  void release() {}
  void acquire() {}
#endif
  char address = 0;
};

// While it lives, the thread sanitizer ignores accesses by this context. The machine's own memory
// would otherwise be reported: operator new and memmove are instrumented everywhere.
class IgnoredAccesses {
 public:
#if defined(FASTGPU_RUN_UNDER_TSAN)
  IgnoredAccesses() { begin(); }
  ~IgnoredAccesses() { end(); }
  static void begin() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  static void end() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  IgnoredAccesses() { begin(); }
  static void begin() {}
  static void end() {}
#endif
  IgnoredAccesses(const IgnoredAccesses&) = delete;
  IgnoredAccesses& operator=(const IgnoredAccesses&) = delete;
};

// Where a fiber, or the scheduler, goes on.
struct Place {
  void* registers[5] = {};  // as __builtin_setjmp() has them
};

// A stack with its context and a fiber, which begins to run with the first switch to it.
struct Stack {
  static constexpr std::size_t kBytes = 64 * 1024;
  static Stack make() { return {std::make_unique_for_overwrite<char[]>(kBytes), Context::make()}; }
  std::unique_ptr<char[]> memory;
  Context context;
  Place fiber{};
  bool begun = false;
};

// Switches between the scheduler and one fiber at a time. swapcontext() would call the kernel each
// time, for the signal mask.
class Switch {
 public:
  // Runs the stack's fiber until it calls leave(). A new fiber runs entry(), which does not return.
  void enter(Stack& stack, void (*entry)()) {
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_start_switch_fiber(&fake_stack_, stack.memory.get(), Stack::kBytes);
#endif
    stack.context.enter();
    if (stack.begun) {
      change(scheduler_, stack.fiber);
    } else {
      stack.begun = true;
      begin(scheduler_, stack, entry);
    }
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

  // The first call of a fiber, and again after leave_ended().
  void entered() {
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

  // Returns to the scheduler, whose context is given.
  void leave(Stack& stack, Context scheduler) {
#if defined(FASTGPU_RUN_UNDER_ASAN)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, scheduler_stack_, scheduler_stack_bytes_);
#endif
    scheduler.enter();
    change(stack.fiber, scheduler_);
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

  // The same when the fiber has nothing left to do. The next scheduler may be another one, so the
  // fiber calls its entered().
  void leave_ended(Stack& stack, Context scheduler) {
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_start_switch_fiber(nullptr, scheduler_stack_, scheduler_stack_bytes_);
#endif
    scheduler.enter();
    change(stack.fiber, scheduler_);
  }

 private:
  // Neither may be inlined: a function that jumps must not be the one that notes a place.
  [[noreturn, gnu::noinline]] static void go(Place& to) { __builtin_longjmp(to.registers, 1); }
  [[gnu::noinline]] static void change(Place& from, Place& to) {
    if (__builtin_setjmp(from.registers) == 0) go(to);
  }
  [[gnu::noinline]] static void begin(Place& from, Stack& stack, void (*entry)()) {
    ucontext_t first{};
    getcontext(&first);
    first.uc_stack.ss_sp = stack.memory.get();
    first.uc_stack.ss_size = Stack::kBytes;
    first.uc_link = nullptr;
    makecontext(&first, entry, 0);
    if (__builtin_setjmp(from.registers) == 0) setcontext(&first);
  }

  Place scheduler_;
#if defined(FASTGPU_RUN_UNDER_ASAN)
  void* fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
#endif
};

}  // namespace fastgpu::simt
