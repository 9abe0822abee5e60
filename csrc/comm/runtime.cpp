#include "comm/runtime.h"

#include <pthread.h>

#include <atomic>
#include <utility>

#include "base/error.h"
#include "base/shortage.h"
#include "control/connector.h"
#include "device/cuda_runtime.h"

namespace fastgpu {
namespace {

class PinnedMemory final : public Allocator {
 public:
  explicit PinnedMemory(DeviceRuntime& runtime) : runtime_(runtime) {}
  std::byte* allocate(std::size_t size_bytes) override {
    return runtime_.allocate_pinned(size_bytes);
  }
  void free(std::byte* memory) noexcept override { runtime_.free_pinned(memory); }

 private:
  DeviceRuntime& runtime_;
};

std::atomic<int> fork_count{0};
std::atomic<Runtime*> shared_runtime{nullptr};

void after_fork_in_child() {
  fork_count.fetch_add(1);
  const Runtime* const parents = shared_runtime.load();
  if (parents != nullptr && !parents->has_communicators()) shared_runtime.store(nullptr);
}

}  // namespace

int forks() noexcept {
  static const int registered = ::pthread_atfork(nullptr, nullptr, after_fork_in_child);
  static_cast<void>(registered);
  return fork_count.load(std::memory_order_relaxed);
}

Runtime::Runtime(const EngineConfig& config) : made_at_fork_(forks()), engine_(config) {}

Runtime::~Runtime() = default;

Runtime& Runtime::shared() {
  static_cast<void>(forks());  // from now on a fork is noticed
  Runtime* current = shared_runtime.load();
  if (current == nullptr) {
    raise_file_limit();
    auto made = std::make_unique<Runtime>();
    if (shared_runtime.compare_exchange_strong(current, made.get())) current = made.release();
  }
  return *current;
}

Runtime* Runtime::existing() noexcept { return shared_runtime.load(); }

void Runtime::start() {
  connector();
  engine_.start();
}

Connector& Runtime::connector() {
  if (made_at_fork_ != forks()) {
    raise(ErrorKind::kInvalidArgument,
          "this process was forked while its parent had a group, and cannot make a group: destroy "
          "the parent's groups before the fork, or start this process with spawn");
  }
  const std::lock_guard lock(mutex_);
  if (!connector_) connector_ = std::make_unique<Connector>(engine_.poller(), heap_);
  return *connector_;
}

void Runtime::add(const std::shared_ptr<Communicator>& communicator) {
  const std::lock_guard lock(mutex_);
  communicators_[communicator.get()] = communicator;
  communicator_count_.store(communicators_.size());
}

void Runtime::remove(const Communicator* communicator) {
  const std::lock_guard lock(mutex_);
  communicators_.erase(communicator);
  communicator_count_.store(communicators_.size());
}

std::vector<std::shared_ptr<Communicator>> Runtime::communicators() {
  std::vector<std::shared_ptr<Communicator>> present;
  if (made_at_fork_ != forks()) return present;  // a thread of the parent may hold the lock
  const std::lock_guard lock(mutex_);
  for (const auto& [key, communicator] : communicators_) {
    if (auto held = communicator.lock()) present.push_back(std::move(held));
  }
  return present;
}

DeviceRuntime& Runtime::devices() {
  const std::lock_guard lock(mutex_);
  if (devices_ == nullptr) {
    const FoundRuntime& found = find_cuda_runtime();
    if (found.runtime == nullptr) raise(ErrorKind::kInvalidArgument, found.why_not);
    devices_ = found.runtime;
  }
  return *devices_;
}

Allocator& Runtime::pinned_memory() {
  DeviceRuntime& runtime = devices();
  const std::lock_guard lock(mutex_);
  if (pinned_memory_ == nullptr) pinned_memory_ = std::make_unique<PinnedMemory>(runtime);
  return *pinned_memory_;
}

device::LaneKernels Runtime::lane_kernels() {
  const std::lock_guard lock(mutex_);
  return lane_kernels_;
}

void Runtime::set_devices(DeviceRuntime* devices, const device::LaneKernels& kernels) {
  const std::lock_guard lock(mutex_);
  devices_ = devices;
  lane_kernels_ = kernels;
}

DeviceHeap& Runtime::device_heap(int device) {
  DeviceRuntime& runtime = devices();
  const std::lock_guard lock(mutex_);
  auto& heap = device_heaps_[device];
  if (heap == nullptr) heap = std::make_unique<DeviceHeap>(runtime, device);
  return *heap;
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
