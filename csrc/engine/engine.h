// The engine: one poll loop a process, run by one thread at a time. Whoever waits may run it, and a
// thread of its own runs it when nobody waits; so a small blocking collective costs no thread
// switch, and an asynchronous one overlaps with compute.
//
// Invariants:
//  1. Only the holder of baton_ (the runner) polls, so what it polls needs no locks of its own.
//  2. Whoever adds work makes it known (submitted) after the work can be seen by busy(); then it
//     runs the loop itself, or the runner is woken, or the engine's thread is.
//  3. The runner sleeps only in the poller, after one more look at everything with its doorbell
//     set.
// Waiting is spin, then yield, then sleep. Never takes the GIL.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "engine/work.h"
#include "transport/poller.h"

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
  virtual bool attentive() const noexcept { return busy(); }
  // Runner only, when nothing moved: fails what has run out of time. Does not throw.
  virtual void expire(TimeNs now) noexcept = 0;
  // Runner only: when the next pending operation runs out of time.
  virtual TimeNs next_deadline() const noexcept = 0;
};

struct EngineConfig {
  bool background = true;  // false: only waiters run it (simulated worlds)
  // Spin; then give way between looks, for a peer may be waiting for this very core; then sleep.
  TimeNs spin_ns = 3 * kMicrosecond;
  TimeNs yield_ns = 60 * kMicrosecond;
};

class Engine {
 public:
  explicit Engine(const EngineConfig& config = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void add(std::shared_ptr<Pollable> pollable);
  // After it returns the pollable is not polled any more.
  void remove(const Pollable* pollable);

  // For a caller that adds work and would wait for it next: takes the baton, if it is free, so that
  // what it adds needs no announcement; runs until `work` is done; gives the baton back.
  bool begin() noexcept { return baton_.try_lock(); }
  void run(const Work& work) { run(&work, kNever, true); }
  void release();
  // The same where the holder has left nothing pending, nor seen to anything but what is its own.
  void end() noexcept { baton_.unlock(); }
  // How often the holder of the baton may look at its own work before it must run the engine: not
  // at all while others have work, and not in every call.
  int looks_alone() noexcept;

  // Says that there is new work, to be finished without a waiter.
  void submitted();
  // Runs what is there until `work` is done, or `budget_ns` has passed; leaves the rest to the
  // background. Does nothing but make the work known when another thread runs the engine.
  void try_run(const Work& work, TimeNs budget_ns);
  // Helps or sleeps until `work` is done or the deadline has passed.
  void wait(Work& work, TimeNs deadline);
  // Wakes the runner if it sleeps.
  void wake() noexcept { poller_.wake(); }

  // More ranks than cores share this host: spinning would only keep the others from running.
  void set_crowded(bool crowded) noexcept { crowded_.store(crowded, std::memory_order_relaxed); }
  // The engine's own thread runs on these processors only.
  void bind(const std::vector<int>& cpus);
  Poller& poller() noexcept { return poller_; }
  // One pass over everything, if nobody else runs it. For tests and simulated worlds.
  bool poll_once();

 private:
  bool poll_all(bool attentive_too);
  void expire_all(TimeNs now);
  bool anything_busy() const;
  void run(const Work* work, TimeNs deadline, bool may_sleep);
  void sleep(TimeNs deadline);
  bool settle();
  void delegate();
  void background_loop();
  void merge_changes();

  const EngineConfig config_;
  Poller poller_;
  std::atomic<bool> crowded_{false};
  std::atomic<bool> wanted_{false};  // somebody else may have work: false only if nobody has

  std::mutex baton_;
  std::atomic<std::thread::id> runner_{};
  std::vector<std::shared_ptr<Pollable>> pollables_;  // guarded by baton_
  std::vector<std::shared_ptr<Pollable>> removed_;    // by the runner itself, in the current pass
  unsigned passes_ = 0;                               // guarded by baton_
  unsigned calls_alone_ = 0;                          // guarded by baton_

  mutable std::mutex registry_mutex_;
  std::vector<std::shared_ptr<Pollable>> registry_;  // guarded by registry_mutex_
  std::atomic<uint64_t> registry_version_{0};
  std::atomic<uint64_t> merged_version_{0};  // written by the holder of baton_

  std::mutex thread_mutex_;
  std::condition_variable thread_wake_;
  bool requested_ = false;  // guarded by thread_mutex_
  bool stopping_ = false;   // guarded by thread_mutex_
  std::thread thread_;      // started at first need
  std::vector<int> cpus_;   // guarded by thread_mutex_; empty: as it was started
};

}  // namespace fastgpu
