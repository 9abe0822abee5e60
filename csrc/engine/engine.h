// The engine: one poll loop for the whole process, which one thread runs at a time. A waiting
// caller may run it, and the progress thread (progress_thread.h) runs it when nobody waits. So a
// small blocking collective costs no thread switch, and an asynchronous one overlaps with compute.
//
// Callers use three calls: run_inline, submit and wait. The thread that holds the progress lock is
// the polling thread; only this class takes the lock. docs/threads.md explains it all.
//
// Invariants:
//  1. Only the thread that holds the progress lock polls, so a Pollable's state needs no lock.
//  2. A thread first makes its work visible to busy(), then announces it: it polls, or marks the
//     progress lock that another thread holds, or wakes the progress thread. A thread that leaves
//     work pending, or releases a marked lock, wakes the progress thread, at once or by its timer.
//  3. A polling thread sleeps only in the poller, after it has set its doorbell and polled
//     everything once more.
// Ownership: shares the Pollables until they are removed. Thread safety: all public calls, any
// thread. Waiting is spin, then yield, then sleep (base/wait_policy.h). Never takes the GIL.
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

// Work that the engine drives: the collectives of a communicator, or its messages.
class Pollable {
 public:
  virtual ~Pollable() = default;
  // Polling thread: moves what can move. Returns whether anything moved.
  virtual bool poll() noexcept = 0;
  // Any thread: whether something is pending.
  virtual bool busy() const noexcept = 0;
  // Any thread: whether the engine, while it runs, polls this now and then even if nothing is
  // pending.
  virtual bool wants_idle_poll() const noexcept { return busy(); }
  // Polling thread, now and then: fails the operations whose deadline has passed.
  virtual void expire(TimeNs now) noexcept = 0;
  // Polling thread: the earliest deadline of a pending operation, or earlier.
  virtual TimeNs next_deadline() const noexcept = 0;
};

// How soon the caller of submit() needs the work.
enum class Submission : uint8_t {
  kAwaited,  // the caller waits next
  kSmall,    // the caller goes on, and the work takes microseconds
  kLarge,    // the caller goes on, and the work takes longer
};

struct EngineConfig {
  bool background = true;  // false: there is no progress thread, only waiters poll (tests)
  TimeNs spin_ns = kSpinNs;
  TimeNs yield_ns = kYieldNs;
  // How long the progress thread leaves pending work to its caller. 0: chosen by the number of
  // ranks and cores.
  TimeNs takeover_delay_ns = 0;
};

// The ranks of a communicator on this machine, and the number of cores that those ranks may use.
struct MachineShare {
  int ranks = 1;
  int cores = 1;
};

class Engine {
 public:
  explicit Engine(const EngineConfig& config = {});
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Starts the progress thread, as the first add() does. Raises OutOfResourcesError.
  void start();
  void add(std::shared_ptr<Pollable> pollable);
  // Once it has returned, the engine no longer polls the pollable.
  void remove(const Pollable* pollable);

  // Runs an operation on the caller's own thread. Returns false and does nothing if another thread
  // holds the progress lock. Else calls `enter(polls)` with the lock held. `enter` adds the
  // operation, may poll the operation alone up to `polls` times, and returns its Work, or nullptr
  // if it is done. Then the engine polls everything: until the work is done, or once if not
  // `until_done`. Raises whatever `enter` raises.
  template <typename Enter>
  bool run_inline(bool until_done, Enter&& enter) {
    if (!try_lock()) return false;
    const Work* left = nullptr;
    try {
      left = enter(polls_alone());
    } catch (...) {
      release();
      throw;
    }
    if (left != nullptr) {
      until_done ? run(left, kNever) : poll_as_owner();
      release();
    } else if (unlock()) {
      leave();
    }
    return true;
  }
  // Announces work that was added. Small work is polled once, unless another thread polls. For
  // large work the progress thread is woken at once.
  void submit(Submission submission);
  // Polls or sleeps until `work` is done or the deadline has passed.
  void wait(Work& work, TimeNs deadline);

  // Wakes the polling thread if it sleeps: something has arrived.
  void wake() noexcept { poller_.wake(); }
  Poller& poller() noexcept { return poller_; }

  // A communicator adds its share of the machine, and removes the share at its end. While any share
  // has more ranks than cores, waiting threads do not spin.
  void share_machine(const MachineShare& share) noexcept;
  void unshare_machine(const MachineShare& share) noexcept;
  bool oversubscribed() const noexcept {
    return oversubscribed_shares_.load(std::memory_order_relaxed) > 0;
  }

 private:
  // What progress_lock_ holds. Marked: held, and there is work that its holder may not have seen.
  static constexpr uint32_t kFree = 0;
  static constexpr uint32_t kHeld = 1;
  static constexpr uint32_t kMarked = 2;

  bool try_lock() noexcept {
    uint32_t free = kFree;
    return progress_lock_.compare_exchange_strong(free, kHeld, std::memory_order_acquire,
                                                  std::memory_order_relaxed);
  }
  bool try_lock_or_mark() noexcept;
  // Returns whether the lock was marked. If so, the caller must call leave().
  bool unlock() noexcept {
    return progress_lock_.exchange(kFree, std::memory_order_acq_rel) == kMarked;
  }
  void release();
  void leave();
  bool take_over(const Work& work);
  int polls_alone() noexcept;

  void run(const Work* work, TimeNs deadline);
  void poll_as_owner();
  bool poll_once();
  bool poll_all(bool idle_too);
  void expire_all(TimeNs now);
  bool anything_busy() const;
  bool has_pending() noexcept;
  bool finished(const Work* work) const;
  void sleep(TimeNs deadline);
  ProgressThread::Next progress_turn(bool called);
  void merge_changes();
  void count_share(const MachineShare& share, int change) noexcept;
  void set_takeover_delay() noexcept;

  const EngineConfig config_;
  Poller poller_;
  // Shares with more ranks than cores, and shares with fewer than two cores for each rank: one for
  // the caller and one for the progress thread.
  std::atomic<int> oversubscribed_shares_{0};
  int tight_shares_ = 0;  // guarded by registry_mutex_

  std::atomic<uint32_t> progress_lock_{kFree};
  std::atomic<std::thread::id> progress_owner_{};
  std::atomic<unsigned> passes_{0};  // of the poll loop; written by the lock's holder
  // Guarded by progress_lock_.
  std::vector<std::shared_ptr<Pollable>> pollables_;
  std::vector<std::shared_ptr<Pollable>> removed_;  // by the polling thread, in this pass
  unsigned calls_alone_ = 0;
  bool poll_idle_next_ = false;  // in the next pass

  mutable std::mutex registry_mutex_;
  std::vector<std::shared_ptr<Pollable>> registry_;  // guarded by registry_mutex_
  std::atomic<uint64_t> registry_version_{0};
  std::atomic<uint64_t> merged_version_{0};  // of pollables_; written by the lock's holder

  // Hints; a stale value costs time, never a result.
  std::atomic<bool> wanted_{false};       // another caller may have work pending
  std::atomic<bool> large_{false};        // pending work may be large: the progress thread runs it
  std::atomic<int> spinning_{0};          // waiters that spin for the progress lock
  std::atomic<int> sleeping_{0};          // waiters that sleep until their work is done
  std::atomic<unsigned> seen_passes_{0};  // passes_ at the progress thread's last turn
  ProgressThread progress_thread_;        // last, because its thread uses the other fields
};

}  // namespace fastgpu
