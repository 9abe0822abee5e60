// What one process has once, for all its communicators: the engine, the connector and
// symmetric memory. Tests make their own; the torch backend uses the shared one, which is never
// destroyed, so that a process may exit without ceremony. Thread safety: all calls, any thread.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "engine/engine.h"
#include "memory/symmetric_heap.h"

namespace fastgpu {

class Connector;

class Runtime {
 public:
  explicit Runtime(const EngineConfig& config = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  static Runtime& shared();

  Engine& engine() noexcept { return engine_; }
  SymmetricHeap& heap() noexcept { return heap_; }
  // Starts the control thread at first use. Raises InvalidArgumentError in a process that was
  // forked since.
  Connector& connector();
  // What was last measured of links and memory here (plan/cost.h), as text; empty: nothing yet.
  std::string constants();
  void set_constants(std::string text);

 private:
  Engine engine_;
  SymmetricHeap heap_;
  std::mutex mutex_;  // guards what follows
  std::string constants_;
  int connected_at_fork_ = 0;
  std::unique_ptr<Connector> connector_;  // after engine_: its channels use the engine's poller
};

// How many forks lie between this process and the one in which it was first asked. A forked process
// has none of its parent's threads, so it must not touch what they share with peers.
int forks() noexcept;

}  // namespace fastgpu
