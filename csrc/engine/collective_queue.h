// The collectives of one communicator: they start in the order pushed, the same on every rank, each
// when its lanes are free; so several may be under way, and each lane carries them one after
// another. Ownership: shares the operations until they are done; the channels outlive it.
// Threading: push, fail_with, failure, busy, full and the counters from any thread; the rest is the
// progress thread's. Bounded: whoever pushes waits first while it is full().
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "engine/engine.h"
#include "engine/lane_run.h"
#include "engine/operation.h"

namespace fastgpu {

class CollectiveQueue : public Pollable {
 public:
  static constexpr uint64_t kMaxPending = 1 << 16;

  // Called once, by the progress thread, with the first failure, before any pending work fails; it
  // may add to the message.
  using FailureHandler = std::function<void(Failure&)>;
  // Called by the progress thread with the data of every operation that fails after it has started,
  // before its work does: a peer may still be about to write there.
  using AbandonHandler = std::function<void(const std::byte* data)>;

  CollectiveQueue(ChannelSource& channels, int lanes, FailureHandler on_failure,
                  AbandonHandler on_abandoned = {});

  // Numbers the operation and takes it. Raises the latched failure when there is one.
  void push(const std::shared_ptr<Operation>& operation);
  // The same by the holder of the engine's progress lock, who runs it next. Tries it at once, with
  // so many looks, where it has the queue to itself, needs one lane and is small: true when that
  // did it, and then its work is not touched.
  bool begin(const std::shared_ptr<Operation>& operation, int looks);
  uint64_t sent_bytes() const noexcept { return sent_bytes_.load(std::memory_order_relaxed); }
  uint64_t received_bytes() const noexcept {
    return received_bytes_.load(std::memory_order_relaxed);
  }
  bool full() const noexcept { return pending() >= kMaxPending; }
  uint64_t sequence() const noexcept { return tickets_.load() / kTicket; }

  // Fails everything pending, and every later push, at the next poll.
  void fail_with(Failure failure);
  std::shared_ptr<const Failure> failure() const;

  bool poll() noexcept override;
  void expire(TimeNs now) noexcept override;
  bool busy() const noexcept override { return pending() > 0 || requested_.load(); }
  TimeNs next_deadline() const noexcept override;
  // For how long, in all, at least one operation was pending. Small ones that never had to wait
  // are not counted: to time them would take a tenth of their time.
  uint64_t busy_ns() const noexcept { return static_cast<uint64_t>(busy_ns_.load()); }

 private:
  struct LaneQueue {
    std::deque<Operation*> waiting;  // the front one is under way; running_ owns them
    LaneRun run;
  };

  // The low bit says that inbox_ holds something, the rest is the number of the last operation. So
  // the holder of the progress lock numbers one without the mutex, unless another thread pushed
  // meanwhile.
  static constexpr uint64_t kFilled = 1;
  static constexpr uint64_t kTicket = 2;

  uint64_t pending() const noexcept {
    const uint64_t numbered = sequence();
    const uint64_t finished = finished_.load(std::memory_order_acquire);
    return numbered > finished ? numbered - finished : 0;
  }
  void clock(const Operation& operation);
  bool number(Operation& operation);
  void count(const Operation& operation) noexcept;
  bool run_alone(Operation& operation, int looks);
  void take_inbox();
  void enqueue(std::shared_ptr<Operation> operation);
  bool poll_lanes();
  bool poll_lane(std::size_t lane);
  void begin_lane(LaneQueue& queue, std::size_t lane);
  void start(Operation& operation);
  void finish_lane(LaneQueue& queue);
  void wind_up(Operation& operation);
  void finish(Operation& operation);
  void one_less() noexcept;
  void check_deadlines(TimeNs now);
  void fail_all(Failure failure);
  std::set<int> awaited_by(const Operation& operation) const;

  ChannelSource& channels_;
  const FailureHandler on_failure_;
  const AbandonHandler on_abandoned_;
  // The progress thread's.
  std::vector<LaneQueue> lanes_;
  Scratch warm_scratch_;                            // of the last operation, for the next
  std::deque<std::shared_ptr<Operation>> running_;  // in call order; done ones leave at the front

  std::atomic<uint64_t> tickets_{0};
  std::atomic<uint64_t> finished_{0};  // operations; the progress thread's to write
  std::atomic<TimeNs> busy_since_{0};  // 0: not known yet
  std::atomic<TimeNs> busy_ns_{0};
  std::atomic<uint64_t> sent_bytes_{0};  // this and the next are the progress thread's to write
  std::atomic<uint64_t> received_bytes_{0};
  std::atomic<bool> requested_{false};  // a failure waits to be taken
  TimeNs next_expiry_ = kNever;         // the progress thread's: no deadline passes before it
  mutable std::mutex
      mutex_;  // guards inbox_, request_, failure_, which only the progress thread sets
  std::vector<std::shared_ptr<Operation>> inbox_;
  std::vector<std::shared_ptr<Operation>> taken_;  // the progress thread's; inbox_'s other half
  std::optional<Failure> request_;
  std::shared_ptr<const Failure> failure_;
};

}  // namespace fastgpu
