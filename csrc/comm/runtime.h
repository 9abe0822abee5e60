// The runtime of a process: the engine, the connector, and the memory of hosts and GPUs that all
// its communicators use. The torch backend uses the shared runtime, which is never destroyed, so a
// process may exit while threads sleep. Tests make their own runtimes.
//
// A forked process has none of its parent's threads. If the parent had no communicator at the fork,
// the child gets a shared runtime of its own; else it cannot make communicators.
// Ownership: outlives its communicators. Thread safety: all calls, any thread.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/retired_words.h"
#include "device/heap.h"
#include "engine/device/lane_code.h"
#include "engine/engine.h"
#include "memory/symmetric_heap.h"

namespace fastgpu {

class Communicator;
class Connector;

class Runtime {
 public:
  explicit Runtime(const EngineConfig& config = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  static Runtime& shared();
  // nullptr if shared() was never called in this process.
  static Runtime* existing() noexcept;

  Engine& engine() noexcept { return engine_; }
  SymmetricHeap& heap() noexcept { return heap_; }
  // Starts the control thread and the engine's, unless they run. Raises OutOfResourcesError, and
  // InvalidArgumentError in a process that was forked since this was made.
  void start();
  // Starts the control thread at first use; raises like start().
  Connector& connector();
  // A communicator adds itself when it has joined, and removes itself when it leaves.
  void add(const std::shared_ptr<Communicator>& communicator);
  void remove(const Communicator* communicator);
  // None in a process that was forked since this was made.
  std::vector<std::shared_ptr<Communicator>> communicators();
  bool has_communicators() const noexcept { return communicator_count_.load() > 0; }
  // The GPUs. Raises InvalidArgumentError if there is no runtime for them, and says why.
  DeviceRuntime& devices();
  // Pinned memory for the host and all GPUs. Raises like devices().
  Allocator& pinned_memory();
  // Of collectives that kernels carry out.
  device::LaneKernels lane_kernels();
  // Replaces the runtime that would be found; it outlives this. For tests, before its first use.
  void set_devices(DeviceRuntime* devices, const device::LaneKernels& kernels);
  // Memory of a GPU that peers can map. It lives as long as this. Raises like devices().
  DeviceHeap& device_heap(int device);
  // Words in those heaps.
  RetiredWords& retired_words() noexcept { return retired_words_; }
  // The costs of links and memory as last measured by this process, as text; empty: not measured.
  std::string constants();
  void set_constants(std::string text);

 private:
  const int made_at_fork_;
  Engine engine_;
  SymmetricHeap heap_;
  std::mutex mutex_;  // guards what follows
  std::string constants_;
  std::map<const Communicator*, std::weak_ptr<Communicator>> communicators_;
  std::atomic<std::size_t> communicator_count_{0};  // for the fork, which cannot lock mutex_
  DeviceRuntime* devices_ = nullptr;                // nullptr: not looked for yet, or there is none
  device::LaneKernels lane_kernels_ = device::built_kernels();
  std::unique_ptr<Allocator> pinned_memory_;
  std::map<int, std::unique_ptr<DeviceHeap>> device_heaps_;
  RetiredWords retired_words_;            // guards itself
  std::unique_ptr<Connector> connector_;  // after engine_: its channels use the engine's poller
};

// The number of forks since the process that first called this. A forked process has none of its
// parent's threads, so it must not touch the connections that those threads serve.
int forks() noexcept;

}  // namespace fastgpu
