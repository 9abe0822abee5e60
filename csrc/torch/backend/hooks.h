// The hooks that users, and torch's flight recorder, register on a backend. Abort hooks run when
// the group fails and before abort(), so that they can save what helps to find the cause;
// completion hooks run for each call that has completed without an error.
//
// Abort hooks run once, and may take long and use Python: after a failure they run on a callback
// thread. Completion hooks run on the thread that completes the operation; torch requires them to
// be short and to leave Python alone. An exception from a hook is logged. Ownership: shared by the
// backend and its calls in flight. Thread safety: all calls, any thread. No lock is held while a
// hook runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "torch/backend/torch_version.h"
#include "torch/backend/work.h"

namespace fastgpu {

#if FASTGPU_TORCH_SINCE(15)
using CompletionHook = c10d::CompletionHook;
#else
using CompletionHook = std::function<void()>;  // torch has none: nobody registers one
#endif

class Hooks : public std::enable_shared_from_this<Hooks> {
 public:
  using AbortHook = std::function<void()>;

  void add_abort(int64_t id, AbortHook hook);
  void remove_abort(int64_t id);
  void add_completion(int64_t id, CompletionHook hook);
  void remove_completion(int64_t id);

  // Runs the hooks when the call ends. Costs nothing while none is registered.
  void watch(TorchWork& work);
  // Runs the abort hooks, unless they have run.
  void before_abort();
  // The same on a callback thread, for a thread that must not block.
  void after_failure();

 private:
  template <typename Hook>
  void change(std::map<int64_t, Hook>& hooks, int64_t id, Hook hook);
  void completed(uint64_t key);

  std::mutex mutex_;  // guards the maps
  std::map<int64_t, AbortHook> abort_hooks_;
  std::map<int64_t, CompletionHook> completion_hooks_;
  std::atomic<bool> any_{false};  // whether a hook is registered
  std::atomic<bool> aborted_{false};
  std::atomic<uint64_t> next_key_{1};
};

}  // namespace fastgpu
