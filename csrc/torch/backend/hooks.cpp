#include "torch/backend/hooks.h"

#include <exception>
#include <utility>

#include "base/log.h"
#include "torch/backend/callbacks.h"

namespace fastgpu {
namespace {

template <typename Hook, typename... Arguments>
void run_hook(const Hook& hook, const char* event, const Arguments&... arguments) {
  try {
    hook(arguments...);
  } catch (const std::exception& error) {
    log(LogLevel::kError, event, "reason=" + in_quotes(error.what()));
  }
}

}  // namespace

// Adds the hook, or removes the one of this id if the hook is empty.
template <typename Hook>
void Hooks::change(std::map<int64_t, Hook>& hooks, int64_t id, Hook hook) {
  {
    const std::lock_guard lock(mutex_);
    std::swap(hooks[id], hook);
    if (!hooks[id]) hooks.erase(id);
    any_.store(!abort_hooks_.empty() || !completion_hooks_.empty());
  }
  // The hook that was replaced is destroyed here, because this may need the GIL.
}

void Hooks::add_abort(int64_t id, AbortHook hook) { change(abort_hooks_, id, std::move(hook)); }

void Hooks::remove_abort(int64_t id) { change(abort_hooks_, id, AbortHook()); }

void Hooks::add_completion(int64_t id, CompletionHook hook) {
  change(completion_hooks_, id, std::move(hook));
}

void Hooks::remove_completion(int64_t id) { change(completion_hooks_, id, CompletionHook()); }

void Hooks::watch(TorchWork& work) {
  if (!any_.load(std::memory_order_relaxed)) return;
  const uint64_t key = next_key_.fetch_add(1, std::memory_order_relaxed);
  work.set_completion_key(key);
  work.on_end([hooks = shared_from_this(), key](const TorchWork::Outcome& outcome) {
    if (outcome.ok) {
      hooks->completed(key);
    } else {
      hooks->after_failure();
    }
  });
}

void Hooks::completed([[maybe_unused]] uint64_t key) {
#if FASTGPU_TORCH_SINCE(15)
  std::map<int64_t, CompletionHook> hooks;
  {
    const std::lock_guard lock(mutex_);
    hooks = completion_hooks_;
  }
  c10d::CompletionHookArgs arguments;
  arguments.completionKey = key;
  for (const auto& [id, hook] : hooks) run_hook(hook, "completion_hook_failed", arguments);
#endif
}

void Hooks::before_abort() {
  if (aborted_.exchange(true)) return;
  std::map<int64_t, AbortHook> hooks;
  {
    const std::lock_guard lock(mutex_);
    hooks = abort_hooks_;
  }
  for (const auto& [id, hook] : hooks) run_hook(hook, "abort_hook_failed");
}

void Hooks::after_failure() {
  if (aborted_.load()) return;
  CallbackThreads::shared().post([hooks = shared_from_this()] { hooks->before_abort(); });
}

}  // namespace fastgpu
