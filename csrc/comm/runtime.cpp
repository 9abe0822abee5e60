#include "comm/runtime.h"

#include <pthread.h>

#include <atomic>

#include "base/error.h"
#include "control/connector.h"

namespace fastgpu {
namespace {

std::atomic<int> fork_count{0};

}  // namespace

int forks() noexcept {
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] { fork_count.fetch_add(1); });
  static_cast<void>(registered);
  return fork_count.load(std::memory_order_relaxed);
}

Runtime::Runtime(const EngineConfig& config) : engine_(config) {}

Runtime::~Runtime() = default;

Runtime& Runtime::shared() {
  static Runtime* runtime = new Runtime;
  return *runtime;
}

Connector& Runtime::connector() {
  const std::lock_guard lock(mutex_);
  if (!connector_) {
    connector_ = std::make_unique<Connector>(engine_.poller(), heap_);
    connected_at_fork_ = forks();
  } else if (connected_at_fork_ != forks()) {
    raise(ErrorKind::kInvalidArgument,
          "this process was forked from one that had a group, whose threads it lacks, and cannot "
          "make a group: start it with spawn");
  }
  return *connector_;
}

std::string Runtime::constants() {
  const std::lock_guard lock(mutex_);
  return constants_;
}

void Runtime::set_constants(std::string text) {
  const std::lock_guard lock(mutex_);
  constants_ = std::move(text);
}

}  // namespace fastgpu
