// Watches the kernels of a communicator on this rank: ends them when the communicator fails, and
// fails the communicator when a kernel does.
//
// It also finds a peer whose host drives a call that a kernel runs here. Such calls do not match:
// the peer's frames wait in a channel, and no kernel takes them.
//
// Ownership: channels and executor outlive it, and so does the memory that begin() gets.
// Threading: add() on the polling thread; Pollable as it says; the rest on any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "base/call.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/lane_memory.h"
#include "engine/device/host_driven/executor.h"
#include "engine/engine.h"
#include "engine/failure_latch.h"
#include "engine/lane_run.h"

namespace fastgpu {

// The kernels of one call, and the call itself for error messages.
struct LaunchedKernel {
  Call call;
  std::string op;
  int64_t sequence = -1;
  TimeNs timeout_ns = kNever;
  uint32_t end = LaneMemory::kEndInGraphs;
};

class KernelWatch final : public Pollable {
 public:
  struct Ranks {
    int mine;
    int world;
    int lanes;  // of the channels
  };
  // `channels` are those of device memory.
  KernelWatch(ChannelSource& channels, DeviceExecutor& executor, Ranks ranks,
              std::shared_ptr<FailureLatch> latch)
      : channels_(channels), executor_(executor), ranks_(ranks), latch_(std::move(latch)) {}

  // Gives it the words of the kernels. Comes before the first add().
  void begin(LaneMemory& memory) noexcept { memory_.store(&memory); }
  // Must follow a launch in the executor's stream.
  void add(LaunchedKernel kernel);
  // From now on kernels may run without an add(), because a graph has captured them.
  void expect_replays() noexcept { expects_replays_.store(true); }
  // Ends the waits of all kernels, now and later.
  void stop() noexcept;

  bool poll() noexcept override;
  bool busy() const noexcept override {
    return !has_stopped_.load() && (pending_.load() > 0 || stopped_since_.load() != 0);
  }
  bool wants_idle_poll() const noexcept override { return busy() || expects_replays_.load(); }
  void expire(TimeNs now) noexcept override;
  TimeNs next_deadline() const noexcept override;

 private:
  void report_end_of(const LaunchedKernel& kernel);
  Failure failure_of(const LaunchedKernel& kernel, const device::Control& record) const;
  Failure failure_of_silent_peer() const;
  std::optional<Failure> find_mismatch();
  template <typename Check>
  void latch_failure_of(Check check) noexcept;

  ChannelSource& channels_;
  DeviceExecutor& executor_;
  const Ranks ranks_;
  const std::shared_ptr<FailureLatch> latch_;
  std::atomic<LaneMemory*> memory_{nullptr};

  std::deque<LaunchedKernel> launched_;  // not ended yet, in order; used by the polling thread
  std::atomic<int> pending_{0};          // the size of launched_
  std::atomic<bool> expects_replays_{false};
  std::atomic<TimeNs> next_mismatch_check_{kNever};
  std::atomic<TimeNs> stopped_since_{0};  // when a peer was found to have stopped the kernels
  std::atomic<int> stopped_by_{kNoRank};
  std::atomic<bool> has_stopped_{false};  // stop() was called, because the group has failed
};

}  // namespace fastgpu
