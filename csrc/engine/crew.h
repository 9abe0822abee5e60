// The crew: threads that help the engine's runner with one task at a time, for a rank that has more
// cores than one. Between tasks they spin shortly, give way, then sleep: idle, they cost nothing.
//
// Invariants:
//  1. A helper touches a task only between a successful enter() and its leave(); close() returns
//     when nobody is inside, so a task may live on its owner's stack.
//  2. Who opens a task stores state_ first and reads sleepers_ second; who goes to sleep counts
//     itself first and reads state_ second (both sequentially consistent). So either the helper
//     sees the task, or it is woken.
// Ownership: owns its threads, and joins them. Threading: grow, bind and set_crowded from any
// thread; open and close by one thread at a time, the holder of the engine's baton. Never takes the
// GIL. A forked process has none of its parent's helpers, and no group that could open a task.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace fastgpu {

class Crew {
 public:
  class Task {
   public:
    virtual ~Task() = default;
    // By several helpers at once, each with its seat, from 1 on. Returns soon after its owner has
    // said that the task is over.
    virtual void help(std::size_t seat) noexcept = 0;
  };

  static constexpr int kMostHelpers = 63;

  Crew() = default;
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Has at least that many helpers from now on.
  void grow(int helpers);
  // The helpers, those to come too, run on these processors only.
  void bind(const std::vector<int>& cpus);
  // More threads than cores share this host: who waits gives way, or sleeps, instead of spinning.
  void set_crowded(bool crowded) noexcept { crowded_.store(crowded, std::memory_order_relaxed); }

  bool crowded() const noexcept { return crowded_.load(std::memory_order_relaxed); }

  // Lets the first `helpers` of the crew at the task, until close().
  void open(Task& task, int helpers) noexcept;
  void close() noexcept;

 private:
  // Of state_: who is inside, how many are wanted, and whether a task is open.
  static constexpr uint32_t kInside = 0xff;
  static constexpr uint32_t kWantedShift = 8;
  static constexpr uint32_t kOpen = 1U << 16;

  void loop(std::size_t seat);
  bool wanted(uint32_t state, std::size_t seat) const noexcept;
  bool enter(std::size_t seat) noexcept;
  void sleep(std::size_t seat) noexcept;

  std::mutex mutex_;
  std::vector<std::thread> threads_;  // guarded by mutex_
  std::vector<int> cpus_;             // guarded by mutex_; empty: as they were started
  std::atomic<bool> crowded_{false};
  std::atomic<bool> stopping_{false};

  Task* task_ = nullptr;  // written while nobody is inside, before state_
  alignas(64) std::atomic<uint32_t> state_{0};
  alignas(64) std::atomic<uint32_t> sleepers_{0};
  std::atomic<uint32_t> wakes_{0};  // what sleepers sleep on
};

}  // namespace fastgpu
