// The collectives of one communicator. Operations start in the order in which callers add them; all
// ranks must add them in the same order. A lane carries operations one by one. Different lanes
// may be at different operations.
//
// Invariants:
//  1. Operations are numbered as the polling thread admits them, in the order in which they start.
//  2. An admitted operation is in running_ until its last lane has ended.
//  3. Once the latch holds a failure, every pending operation fails with it, exactly once.
// Ownership: shares the operations until they end; the channels outlive the queue.
// Threading: push, busy and the counters from any thread; the rest is the polling thread's.
// Unbounded: a caller that had to wait here could not make the call that its peers wait for.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/failure_latch.h"
#include "engine/inbox.h"
#include "engine/lane_run.h"
#include "engine/operation.h"

namespace fastgpu {

class CollectiveQueue : public Pollable {
 public:
  // Called with the data of every operation that fails after it has started, before its work fails:
  // a peer may still be about to write there.
  using AbandonHandler = std::function<void(const std::byte* data)>;

  CollectiveQueue(ChannelSource& channels, int lanes, std::shared_ptr<FailureLatch> latch,
                  AbandonHandler on_abandoned = {});

  // Adds an operation. Raises the latched failure if there is one.
  void push(std::shared_ptr<Operation> operation);
  // Like push(), for the thread that holds the progress lock. A small operation of one lane is
  // tried at once if nothing else is pending here: it is polled up to `polls` times. True: that
  // finished the operation, and its work was not touched.
  bool enter(const std::shared_ptr<Operation>& operation, int polls);

  // The next operation is number 1 again. Nothing may be pending, and no other thread may call.
  void restart_numbers() noexcept;

  // The number of operations that were added, without internal ones.
  uint64_t sequence() const noexcept { return added() - unnumbered_.load(); }
  uint64_t sent_bytes() const noexcept { return sent_bytes_.load(std::memory_order_relaxed); }
  uint64_t received_bytes() const noexcept {
    return received_bytes_.load(std::memory_order_relaxed);
  }
  // For how long, in all, at least one operation was pending. Small operations that never had to
  // wait are not counted: timing them would take a tenth of their own time.
  uint64_t busy_ns() const noexcept { return static_cast<uint64_t>(busy_ns_.load()); }

  bool poll() noexcept override;
  void expire(TimeNs now) noexcept override;
  bool busy() const noexcept override { return pending() > 0; }
  TimeNs next_deadline() const noexcept override;

 private:
  struct LaneQueue {
    std::deque<Operation*> waiting;  // the first one is under way; running_ owns them
    LaneRun run;
  };

  uint64_t added() const noexcept {
    return inbox_.pushed() + entered_.load(std::memory_order_relaxed);
  }
  uint64_t pending() const noexcept {
    const uint64_t all = added();
    const uint64_t ended = ended_.load(std::memory_order_acquire);
    return all > ended ? all - ended : 0;
  }
  void start_clock(const Operation& operation);
  void take_inbox();
  void admit(Operation& operation);
  bool run_alone(Operation& operation, int polls);
  void enqueue(std::shared_ptr<Operation> operation);
  bool poll_lanes();
  bool poll_lane(std::size_t lane);
  void begin_lane(LaneQueue& queue, std::size_t lane);
  void start(Operation& operation);
  void finish_lane(LaneQueue& queue);
  void wind_up(Operation& operation);
  void finish(Operation& operation);
  void count_ended() noexcept;
  void check_deadlines(TimeNs now);
  std::string describe_wait(const Operation& operation, int* suspect) const;
  void fail(Failure failure) noexcept;
  void fail_pending(const Failure& failure) noexcept;

  ChannelSource& channels_;
  const std::shared_ptr<FailureLatch> latch_;
  const AbandonHandler on_abandoned_;
  Inbox<std::shared_ptr<Operation>> inbox_;

  // The polling thread's.
  std::vector<LaneQueue> lanes_;
  std::deque<std::shared_ptr<Operation>> running_;  // in order; ended ones leave at the front
  Scratch warm_scratch_;                            // of the last operation, for the next
  uint64_t admitted_ = 0;                           // since restart_numbers()
  TimeNs next_expiry_ = kNever;                     // no deadline passes before it

  std::atomic<uint64_t> unnumbered_{0};  // internal, or before restart_numbers()

  // Written by the polling thread, read by any.
  std::atomic<uint64_t> entered_{0};  // operations that did not come by the inbox
  std::atomic<uint64_t> ended_{0};
  std::atomic<uint64_t> sent_bytes_{0};
  std::atomic<uint64_t> received_bytes_{0};
  std::atomic<TimeNs> busy_since_{0};  // 0: not known yet; also written by push()
  std::atomic<TimeNs> busy_ns_{0};
};

}  // namespace fastgpu
