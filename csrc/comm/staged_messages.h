// The messages of a communicator whose memory is on a GPU. They pass through pinned memory: a send
// is copied there and then posted, a receive arrives there and is then copied.
//
// Invariants:
//  1. Sends are posted in the order of the calls.
//  2. A send that is not posted yet fails with the latch, and has the time-out of its Work. If that
//     passes, this rank's own GPU is late.
// Ownership: shared by the communicator and the engine. Threading: poll() and expire() on the
// polling thread; any thread may call the rest.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "comm/calls.h"
#include "engine/device/host_driven/executor.h"
#include "engine/engine.h"
#include "engine/failure_latch.h"
#include "engine/messages/message.h"
#include "memory/scratch_pool.h"

namespace fastgpu {

class StagedMessages final : public Pollable {
 public:
  using Post = std::function<void(MessagePtr message)>;

  // `post` adds a message to the queue.
  StagedMessages(DeviceRuntime& runtime, int device, Allocator& pinned,
                 std::shared_ptr<FailureLatch> latch, Post post);

  void send(MessagePtr message, const MessageCall& call);
  void recv(const MessagePtr& message, const MessageCall& call);
  // Waits for the GPU, and releases all memory. No message may be under way.
  void finish() noexcept { executor_->finish(); }

  bool poll() noexcept override;
  void expire(TimeNs now) noexcept override;
  bool busy() const noexcept override { return sending() || executor_->has_calls(); }
  TimeNs next_deadline() const noexcept override;
  // Whether sends are not posted yet.
  bool sending() const noexcept { return unposted_.load() > 0; }

 private:
  struct Send {
    uint64_t mark = 0;  // behind the copy
    MessagePtr message;
  };
  void post_copied();
  void fail_sends(const Failure& failure) noexcept;

  const std::shared_ptr<DeviceExecutor> executor_;
  const std::shared_ptr<ScratchPool> pinned_;
  const std::shared_ptr<FailureLatch> latch_;
  const Post post_;
  std::atomic<bool> device_failed_{false};
  std::atomic<int> unposted_{0};  // sends_, and the one that is being posted
  std::mutex mutex_;              // guards sends_, and keeps them in the order of the copies
  std::deque<Send> sends_;
};

}  // namespace fastgpu
