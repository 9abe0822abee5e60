#include "engine/crew.h"

#include <algorithm>

#include "base/affinity.h"
#include "base/clock.h"
#include "base/futex.h"
#include "base/pause.h"

namespace fastgpu {
namespace {

// As the engine waits: a task follows the last one closely, or not for long.
constexpr TimeNs kSpinNs = 3 * kMicrosecond;
constexpr TimeNs kYieldNs = 60 * kMicrosecond;
constexpr unsigned kLooksPerClock = 8;
constexpr unsigned kSpinsToClose = 1000;

}  // namespace

Crew::~Crew() {
  stopping_.store(true);
  wakes_.fetch_add(1);
  futex_wake_all(wakes_);
  for (std::thread& thread : threads_) thread.join();
}

void Crew::grow(int helpers) {
  const std::lock_guard lock(mutex_);
  const auto wanted = static_cast<std::size_t>(std::clamp(helpers, 0, kMostHelpers));
  while (threads_.size() < wanted) {
    const std::size_t seat = threads_.size() + 1;
    threads_.emplace_back([this, seat] { loop(seat); });
    if (!cpus_.empty()) bind_thread(threads_.back().native_handle(), cpus_);
  }
}

void Crew::bind(const std::vector<int>& cpus) {
  const std::lock_guard lock(mutex_);
  cpus_ = cpus;
  for (std::thread& thread : threads_) bind_thread(thread.native_handle(), cpus_);
}

void Crew::open(Task& task, int helpers) noexcept {
  task_ = &task;
  state_.store(kOpen | static_cast<uint32_t>(helpers) << kWantedShift);
  if (sleepers_.load() == 0) return;
  wakes_.fetch_add(1);
  futex_wake_all(wakes_);
}

// Whoever is inside leaves soon: no task waits for anything. But it may have lost its core.
void Crew::close() noexcept {
  uint32_t state = state_.fetch_and(~kOpen, std::memory_order_acquire);
  for (unsigned spins = 0; (state & kInside) != 0; ++spins) {
    if (spins < kSpinsToClose && !crowded()) {
      pause();
    } else {
      std::this_thread::yield();
    }
    state = state_.load(std::memory_order_acquire);
  }
}

bool Crew::wanted(uint32_t state, std::size_t seat) const noexcept {
  return (state & kOpen) != 0 && seat <= (state >> kWantedShift & 0xff);
}

bool Crew::enter(std::size_t seat) noexcept {
  uint32_t state = state_.load(std::memory_order_relaxed);
  while (wanted(state, seat)) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

void Crew::sleep(std::size_t seat) noexcept {
  const uint32_t wakes = wakes_.load();
  sleepers_.fetch_add(1);
  if (!wanted(state_.load(), seat) && !stopping_.load()) futex_wait(wakes_, wakes, kNever);
  sleepers_.fetch_sub(1);
}

void Crew::loop(std::size_t seat) {
  TimeNs idle_since = 0;
  for (unsigned looks = 0; !stopping_.load(std::memory_order_relaxed);) {
    if (enter(seat)) {
      task_->help(seat);
      state_.fetch_sub(1, std::memory_order_release);
      idle_since = 0;
      continue;
    }
    const bool spins = !crowded();
    pause();
    if (spins && ++looks % kLooksPerClock != 0) continue;
    const TimeNs now = now_ns();
    if (idle_since == 0) idle_since = now;
    if (spins && now - idle_since < kSpinNs) continue;
    if (spins && now - idle_since < kSpinNs + kYieldNs) {
      std::this_thread::yield();
      continue;
    }
    sleep(seat);
    idle_since = 0;
  }
}

}  // namespace fastgpu
