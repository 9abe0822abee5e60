// The engine: one poll loop a process, run by one thread at a time. Whoever waits may run it, and a
// thread of its own (standby.h) runs it when nobody waits; so a small blocking collective costs no
// thread switch, and an asynchronous one overlaps with compute.
//
// Invariants:
//  1. Only the holder of progress_lock_ (the progress thread) polls, so what it polls needs no
//  locks of its own.
//  2. Whoever adds work makes it known after the work can be seen by busy(): it runs the loop
//     itself, or marks the progress lock that another holds, or calls the engine's thread. Who
//     leaves something, or gives back a marked progress lock, has that thread look.
//  3. The progress thread sleeps only in the poller, after one more look at everything with its
//  doorbell
//     set.
// Waiting is spin, then yield, then sleep. Never takes the GIL.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/wait_policy.h"
#include "engine/progress_thread.h"
#include "engine/work.h"
#include "transport/wait/poller.h"

namespace fastgpu {

// Something the engine drives: the collectives of a communicator, or its messages.
class Pollable {
 public:
  virtual ~Pollable() = default;
  // Runner only: moves what can move, says whether anything did. Does not throw.
  virtual bool poll() noexcept = 0;
  // Any thread: whether something is pending.
  virtual bool busy() const noexcept = 0;
  // Any thread: whether to poll it now and then while the engine runs, also when nothing is
  // pending.
  virtual bool wants_idle_poll() const noexcept { return busy(); }
  // Runner only, now and then: fails what has run out of time. Does not throw.
  virtual void expire(TimeNs now) noexcept = 0;
  // Runner only: when the next pending operation runs out of time.
  virtual TimeNs next_deadline() const noexcept = 0;
};

struct EngineConfig {
  bool background = true;  // false: only waiters run it (simulated worlds)
  TimeNs spin_ns = kSpinNs;
  TimeNs yield_ns = kYieldNs;
  // How long the progress thread leaves pending work to its caller. 0: by how many ranks share the
  // cores.
  TimeNs takeover_delay_ns = 0;
};

// The ranks of one communicator on this machine, and the cores that they may use together.
struct MachineShare {
  int ranks = 1;
  int cores = 1;
};

class Engine {
 public:
  explicit Engine(const EngineConfig& config = {});
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void add(std::shared_ptr<Pollable> pollable);
  // After it returns the pollable is not polled any more.
  void remove(const Pollable* pollable);

  // For a caller that adds work: takes the progress lock, if it is free, so that what it adds needs
  // no announcement. Then either runs until `work` is done, or looks at everything once; and gives
  // the progress lock back, with which what is left becomes the next waiter's, or soon the
  // background's.
  bool begin() noexcept {
    uint32_t free = kFree;
    return progress_lock_.compare_exchange_strong(free, kHeld, std::memory_order_acquire,
                                                  std::memory_order_relaxed);
  }
  void run(const Work& work) { run(&work, kNever); }
  void pass();
  void release();
  // The same where the holder has left nothing pending, nor seen to anything but what is its own.
  void end() {
    if (give_back()) leave();
  }
  // How often the holder of the progress lock may look at its own work before it must run the
  // engine: not at all while others have work, and not in every call.
  int looks_alone() noexcept;

  // Says that there is new work, to be finished in the background from now on.
  void submitted();
  // Says that there is new small work: looks at it once, unless another thread runs the engine.
  void submitted_small();
  // Helps or sleeps until `work` is done or the deadline has passed.
  void wait(Work& work, TimeNs deadline);
  // Wakes the progress thread if it sleeps.
  void wake() noexcept { poller_.wake(); }

  // A communicator says who shares this machine with its rank, and takes that back when it goes.
  // While any share has more ranks than cores, nobody spins.
  void share_machine(const MachineShare& share) noexcept;
  void unshare_machine(const MachineShare& share) noexcept;
  bool oversubscribed() const noexcept {
    return oversubscribed_shares_.load(std::memory_order_relaxed) > 0;
  }
  Poller& poller() noexcept { return poller_; }

 private:
  // What progress_lock_ holds. Marked: held, and there is work that its holder may not have seen.
  static constexpr uint32_t kFree = 0;
  static constexpr uint32_t kHeld = 1;
  static constexpr uint32_t kMarked = 2;

  void count_share(const MachineShare& share, int change) noexcept;
  void set_takeover_delay() noexcept;
  bool poll_once();
  bool poll_all(bool idle_too);
  void expire_all(TimeNs now);
  bool anything_busy() const;
  void run(const Work* work, TimeNs deadline);
  bool finished(const Work* work) const;
  void sleep(TimeNs deadline);
  bool has_pending() noexcept;
  bool give_back() noexcept {
    return progress_lock_.exchange(kFree, std::memory_order_acq_rel) == kMarked;
  }
  bool begin_or_mark() noexcept;
  bool take_over(const Work& work);
  void leave();
  ProgressThread::Next progress_turn(bool called);
  void merge_changes();

  const EngineConfig config_;
  Poller poller_;
  // Shares with more ranks than cores, and shares with fewer than two cores for each rank: one for
  // the caller and one for the progress thread.
  std::atomic<int> oversubscribed_shares_{0};
  int tight_shares_ = 0;  // guarded by registry_mutex_
  // Somebody else may have work. False a moment too early at worst: then callers that run alone are
  // relieved by the engine's thread.
  std::atomic<bool> wanted_{false};

  std::atomic<uint32_t> progress_lock_{kFree};
  std::atomic<std::thread::id> progress_owner_{};
  std::vector<std::shared_ptr<Pollable>> pollables_;  // guarded by progress_lock_
  std::vector<std::shared_ptr<Pollable>>
      removed_;                      // by the progress thread itself, in the current pass
  std::atomic<unsigned> passes_{0};  // written by the holder of progress_lock_
  unsigned calls_alone_ = 0;         // guarded by progress_lock_, as is the next
  bool poll_idle_next_ = false;      // in the next pass

  mutable std::mutex registry_mutex_;
  std::vector<std::shared_ptr<Pollable>> registry_;  // guarded by registry_mutex_
  std::atomic<uint64_t> registry_version_{0};
  std::atomic<uint64_t> merged_version_{0};  // written by the holder of progress_lock_

  // Waiters that spin for the progress lock, to which the background gives it; and those that
  // sleep, for whom somebody has to run the engine.
  std::atomic<int> spinning_{0};
  std::atomic<int> sleeping_{0};
  // Of what is pending something may be large, and is the background's. Set late or cleared early
  // by a race it costs time, no more.
  std::atomic<bool> large_{false};
  std::atomic<unsigned> seen_passes_{0};  // at the background's last look, or when it was asked
  ProgressThread progress_thread_;        // last: its thread uses the rest
};

}  // namespace fastgpu
