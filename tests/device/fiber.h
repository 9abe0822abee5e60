// Fibers, and what the sanitizers must know about them. Included by simt_machine.cpp alone, which
// is compiled without sanitizers: FASTGPU_RUN_UNDER_TSAN and _ASAN say what the rest of the program
// has.
//
// To the thread sanitizer a fiber is a thread of its own. A switch orders nothing; only release()
// and acquire() do. So it finds two accesses that nothing orders, although fibers never run at the
// same time. Threading: one thread.
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

// A stack with its context, both used again after a fiber has ended.
struct Stack {
  static constexpr std::size_t kBytes = 64 * 1024;
  static Stack make() { return {std::make_unique_for_overwrite<char[]>(kBytes), Context::make()}; }
  std::unique_ptr<char[]> memory;
  Context context;
};

// Switches between the scheduler and one fiber at a time.
class Switch {
 public:
  // Prepares `fiber` to run entry() on the stack.
  static void prepare(ucontext_t& fiber, Stack& stack, void (*entry)()) {
    getcontext(&fiber);
    fiber.uc_stack.ss_sp = stack.memory.get();
    fiber.uc_stack.ss_size = Stack::kBytes;
    fiber.uc_link = nullptr;
    makecontext(&fiber, entry, 0);
  }

  // Runs the fiber until it calls leave().
  void enter(ucontext_t& fiber, Stack& stack) {
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_start_switch_fiber(&fake_stack_, stack.memory.get(), Stack::kBytes);
#endif
    stack.context.enter();
    swapcontext(&scheduler_, &fiber);
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

  // The first call of a fiber.
  void entered() {
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

  // Returns to the scheduler, whose context is given; forever if the fiber has ended.
  void leave(ucontext_t& fiber, Context scheduler, [[maybe_unused]] bool ended) {
#if defined(FASTGPU_RUN_UNDER_ASAN)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(ended ? nullptr : &fake_stack, scheduler_stack_,
                                   scheduler_stack_bytes_);
#endif
    scheduler.enter();
    swapcontext(&fiber, &scheduler_);
#if defined(FASTGPU_RUN_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

 private:
  ucontext_t scheduler_{};
#if defined(FASTGPU_RUN_UNDER_ASAN)
  void* fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
#endif
};

}  // namespace fastgpu::simt
