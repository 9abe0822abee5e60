#include "engine/engine.h"

#include <algorithm>

#include "base/affinity.h"
#include "base/pause.h"

namespace fastgpu {
namespace {

// So that what no event announces, such as a reason that never came, is seen in time.
constexpr TimeNs kLongestSleep = kSecond;
// Reading the clock costs as much as a look at a few channels.
constexpr unsigned kLooksPerClock = 8;
// How often those that are attentive, but not busy, get their turn.
constexpr unsigned kPassesPerRound = 8;
// The looks of a caller that has the engine to itself: about a microsecond. And how often such a
// caller runs the engine all the same, for the sake of those that are attentive.
constexpr int kLooksAlone = 32;
constexpr unsigned kCallsPerRound = 64;

}  // namespace

Engine::Engine(const EngineConfig& config) : config_(config) {}

Engine::~Engine() {
  {
    const std::lock_guard lock(thread_mutex_);
    stopping_ = true;
  }
  thread_wake_.notify_all();
  poller_.wake();
  if (thread_.joinable()) thread_.join();
}

void Engine::add(std::shared_ptr<Pollable> pollable) {
  const std::lock_guard lock(registry_mutex_);
  registry_.push_back(std::move(pollable));
  registry_version_.fetch_add(1);
}

void Engine::remove(const Pollable* pollable) {
  uint64_t version = 0;
  {
    const std::lock_guard lock(registry_mutex_);
    std::erase_if(registry_, [&](const auto& entry) { return entry.get() == pollable; });
    version = registry_version_.fetch_add(1) + 1;
  }
  if (runner_.load() == std::this_thread::get_id()) {
    // From inside a pass: it goes on over what is left, and drops this one at its end.
    for (auto& entry : pollables_) {
      if (entry.get() == pollable) removed_.push_back(std::move(entry));
    }
    return;
  }
  // The runner takes the change at its next pass, however long it goes on running.
  while (merged_version_.load(std::memory_order_acquire) < version) {
    if (baton_.try_lock()) {
      merge_changes();
      release();
    } else {
      poller_.wake();
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
}

void Engine::merge_changes() {
  const std::lock_guard lock(registry_mutex_);
  pollables_ = registry_;
  merged_version_.store(registry_version_.load(), std::memory_order_release);
}

bool Engine::poll_all(bool attentive_too) {
  if (merged_version_.load(std::memory_order_relaxed) !=
      registry_version_.load(std::memory_order_acquire)) {
    merge_changes();
  }
  bool moved = false;
  for (std::size_t i = 0; i < pollables_.size(); ++i) {
    Pollable* pollable = pollables_[i].get();
    if (pollable == nullptr) continue;
    if (pollable->busy() || (attentive_too && pollable->attentive())) moved |= pollable->poll();
  }
  if (!removed_.empty()) {
    std::erase(pollables_, nullptr);
    removed_.clear();
  }
  return moved;
}

bool Engine::anything_busy() const {
  return std::any_of(pollables_.begin(), pollables_.end(),
                     [](const auto& each) { return each != nullptr && each->busy(); });
}

void Engine::expire_all(TimeNs now) {
  for (const auto& pollable : pollables_) {
    if (pollable != nullptr && pollable->busy()) pollable->expire(now);
  }
}

// The caller holds the baton. Ends when `work` is done (without one: when nothing is pending), or
// at the deadline; without `may_sleep` also when spinning has brought nothing.
void Engine::run(const Work* work, TimeNs deadline, bool may_sleep) {
  runner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  const TimeNs spin_ns = crowded_.load(std::memory_order_relaxed) ? 0 : config_.spin_ns;
  TimeNs idle_since = 0;
  for (unsigned looks = 0;;) {
    const bool moved = poll_all(++passes_ % kPassesPerRound == 0);
    if (work != nullptr ? work->done() : !anything_busy()) break;
    if (moved) {
      idle_since = 0;
      continue;
    }
    pause();
    if (spin_ns > 0 && ++looks % kLooksPerClock != 0) continue;
    const TimeNs now = now_ns();
    expire_all(now);
    if (now >= deadline) break;
    if (idle_since == 0) idle_since = now;
    const TimeNs idle = now - idle_since;
    if (idle < spin_ns) continue;
    if (!may_sleep) break;
    if (idle < spin_ns + config_.yield_ns) {
      std::this_thread::yield();
    } else {
      sleep(deadline);
      idle_since = 0;
    }
  }
  runner_.store(std::thread::id{}, std::memory_order_relaxed);
}

void Engine::sleep(TimeNs deadline) {
  poller_.prepare_sleep();
  if (poll_all(true)) {
    poller_.cancel_sleep();
    return;
  }
  deadline = std::min(deadline, now_ns() + kLongestSleep);
  for (const auto& pollable : pollables_) {
    if (pollable != nullptr && pollable->busy()) {
      deadline = std::min(deadline, pollable->next_deadline());
    }
  }
  poller_.sleep(deadline);
}

// Says whether anything is pending. Work is pushed before it is announced: so either it is seen
// here, or the announcement comes after.
bool Engine::settle() {
  wanted_.exchange(false);
  const bool left = anything_busy();
  if (left) wanted_.store(true);
  return left;
}

int Engine::looks_alone() noexcept {
  if (wanted_.load() || ++calls_alone_ % kCallsPerRound == 0) return 0;
  return crowded_.load(std::memory_order_relaxed) ? 1 : kLooksAlone;
}

// Gives the baton back; what is still pending goes on in the background.
void Engine::release() {
  const bool left = settle();
  baton_.unlock();
  if (left) delegate();
}

void Engine::submitted() {
  wanted_.store(true);
  poller_.wake();
  delegate();
}

void Engine::try_run(const Work& work, TimeNs budget_ns) {
  if (!baton_.try_lock()) return submitted();
  run(&work, now_ns() + budget_ns, false);
  release();
}

void Engine::wait(Work& work, TimeNs deadline) {
  while (!work.done() && (deadline == kNever || now_ns() < deadline)) {
    if (baton_.try_lock()) {
      run(&work, deadline, true);
      release();
    } else {
      // The runner may be asleep, or about to stop; in that case the background takes over.
      submitted();
      work.sleep_until_done(config_.background ? deadline : now_ns() + kMillisecond);
    }
  }
}

bool Engine::poll_once() {
  if (!baton_.try_lock()) return false;
  runner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  const bool moved = poll_all(true);
  if (!moved) expire_all(now_ns());
  runner_.store(std::thread::id{}, std::memory_order_relaxed);
  baton_.unlock();
  return moved;
}

void Engine::bind(const std::vector<int>& cpus) {
  const std::lock_guard lock(thread_mutex_);
  cpus_ = cpus;
  if (thread_.joinable()) bind_thread(thread_.native_handle(), cpus_);
}

void Engine::delegate() {
  if (!config_.background) return;
  {
    const std::lock_guard lock(thread_mutex_);
    if (stopping_) return;
    if (!thread_.joinable()) {
      thread_ = std::thread([this] { background_loop(); });
      if (!cpus_.empty()) bind_thread(thread_.native_handle(), cpus_);
    }
    if (requested_) return;
    requested_ = true;
  }
  thread_wake_.notify_one();
}

void Engine::background_loop() {
  std::unique_lock lock(thread_mutex_);
  for (;;) {
    thread_wake_.wait(lock, [&] { return requested_ || stopping_; });
    if (stopping_) return;
    requested_ = false;
    lock.unlock();
    baton_.lock();
    run(nullptr, kNever, true);
    settle();
    baton_.unlock();
    lock.lock();
  }
}

}  // namespace fastgpu
