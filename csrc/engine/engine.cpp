#include "engine/engine.h"

#include <algorithm>
#include <utility>

namespace fastgpu {
namespace {

// Reading the clock costs as much as polling a few channels.
constexpr unsigned kPollsPerClock = 8;
// How often those that want idle polls, but are not busy, get their turn.
constexpr unsigned kPassesPerIdlePoll = 8;
// How often a caller that has the engine to itself may poll its own work alone: about a
// microsecond. Each so many calls it runs the whole engine all the same, so that idle polls,
// failures and changes are not put off for ever.
constexpr int kPollsAlone = 32;
constexpr unsigned kCallsPerPass = 64;
// How often deadlines are checked while something moves.
constexpr unsigned kPassesPerExpiry = 1024;
// How long the progress thread leaves pending work to its caller. Soon, if there is a core for it;
// else a switch between the two would cost 20 us and more.
constexpr TimeNs kTakeoverDelay = 50 * kMicrosecond;
constexpr TimeNs kTakeoverDelayTight = kMillisecond;

}  // namespace

Engine::Engine(const EngineConfig& config)
    : config_(config), progress_thread_([this](bool called) { return progress_turn(called); }) {
  set_takeover_delay();
}

void Engine::share_machine(const MachineShare& share) noexcept { count_share(share, 1); }

void Engine::unshare_machine(const MachineShare& share) noexcept { count_share(share, -1); }

void Engine::count_share(const MachineShare& share, int change) noexcept {
  const std::lock_guard lock(registry_mutex_);
  if (fastgpu::oversubscribed(share.ranks, share.cores)) oversubscribed_shares_.fetch_add(change);
  if (fastgpu::oversubscribed(2 * share.ranks, share.cores)) tight_shares_ += change;
  set_takeover_delay();
}

void Engine::set_takeover_delay() noexcept {
  const TimeNs by_share = tight_shares_ > 0 ? kTakeoverDelayTight : kTakeoverDelay;
  progress_thread_.set_delay(config_.takeover_delay_ns > 0 ? config_.takeover_delay_ns : by_share);
}

void Engine::start() {
  if (config_.background) progress_thread_.start();
}

void Engine::add(std::shared_ptr<Pollable> pollable) {
  start();
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
  if (progress_owner_.load() == std::this_thread::get_id()) {
    // Called from inside a pass: the pass drops the pollable at its end.
    for (auto& entry : pollables_) {
      if (entry.get() == pollable) removed_.push_back(std::move(entry));
    }
    return;
  }
  // Another polling thread takes the change at its next pass.
  while (merged_version_.load(std::memory_order_acquire) < version) {
    if (try_lock()) {
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

bool Engine::poll_all(bool idle_too) {
  if (merged_version_.load(std::memory_order_relaxed) !=
      registry_version_.load(std::memory_order_acquire)) {
    merge_changes();
  }
  bool moved = false;
  for (std::size_t i = 0; i < pollables_.size(); ++i) {
    Pollable* pollable = pollables_[i].get();
    if (pollable == nullptr) continue;
    if (pollable->busy() || (idle_too && pollable->wants_idle_poll())) moved |= pollable->poll();
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

bool Engine::poll_once() {
  const unsigned pass = passes_.load(std::memory_order_relaxed) + 1;
  passes_.store(pass, std::memory_order_relaxed);
  if (pass % kPassesPerExpiry == 0) expire_all(now_ns());
  return poll_all(std::exchange(poll_idle_next_, false) || pass % kPassesPerIdlePoll == 0);
}

bool Engine::finished(const Work* work) const {
  if (work != nullptr) return work->done();
  if (spinning_.load(std::memory_order_relaxed) > 0 && !large_.load(std::memory_order_relaxed)) {
    return true;
  }
  return !anything_busy();
}

// Needs the progress lock. Ends when `work` is done, or at the deadline. Without a work: when
// nothing is pending, or a waiter asks for the lock.
void Engine::run(const Work* work, TimeNs deadline) {
  progress_owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  const bool shares_cores = oversubscribed();
  const TimeNs spin_ns = shares_cores ? 0 : config_.spin_ns;
  const TimeNs awake_ns = shares_cores ? kSharedCoreYieldNs : spin_ns + config_.yield_ns;
  TimeNs idle_since = 0;
  for (unsigned polls = 0;;) {
    const bool moved = poll_once();
    if (finished(work)) break;
    if (moved) {
      idle_since = 0;
      continue;
    }
    pause();
    if (spin_ns > 0 && ++polls % kPollsPerClock != 0) continue;
    const TimeNs now = now_ns();
    expire_all(now);
    if (now >= deadline) break;
    if (idle_since == 0) idle_since = now;
    const TimeNs idle = now - idle_since;
    if (idle < spin_ns) continue;
    if (idle < awake_ns) {
      std::this_thread::yield();
    } else {
      sleep(deadline);
      idle_since = 0;
    }
  }
  progress_owner_.store(std::thread::id{}, std::memory_order_relaxed);
}

void Engine::poll_as_owner() {
  progress_owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  poll_once();
  progress_owner_.store(std::thread::id{}, std::memory_order_relaxed);
}

void Engine::sleep(TimeNs deadline) {
  poller_.prepare_sleep();
  if (poll_all(true)) {
    poller_.cancel_sleep();
    return;
  }
  deadline = std::min(deadline, now_ns() + kLongestSleepNs);
  for (const auto& pollable : pollables_) {
    if (pollable != nullptr && pollable->busy()) {
      deadline = std::min(deadline, pollable->next_deadline());
    }
  }
  poller_.sleep(deadline);
}

bool Engine::has_pending() noexcept {
  wanted_.store(false, std::memory_order_relaxed);
  const bool left = anything_busy();
  if (left) wanted_.store(true, std::memory_order_relaxed);
  return left;
}

// None while others have work, and none now and then.
int Engine::polls_alone() noexcept {
  if (wanted_.load(std::memory_order_relaxed)) return 0;
  if (++calls_alone_ % kCallsPerPass == 0) {
    poll_idle_next_ = true;
    return 0;
  }
  return oversubscribed() ? 1 : kPollsAlone;
}

void Engine::release() {
  const bool left = has_pending();
  const bool marked = unlock();
  if (left || marked) leave();
}

// Leaves pending work to the progress thread: at once if it is large, or if another thread sleeps
// until it is done; else after a while, for its caller is likely to wait for it.
void Engine::leave() {
  wanted_.store(true, std::memory_order_relaxed);
  if (!config_.background) return;
  if (large_.load(std::memory_order_relaxed) || sleeping_.load(std::memory_order_relaxed) > 0) {
    progress_thread_.wake();
  } else if (progress_thread_.wake_later()) {
    seen_passes_.store(passes_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
}

// If another thread holds the lock, it will leave() the work to the progress thread.
bool Engine::try_lock_or_mark() noexcept {
  if (try_lock()) return true;
  wanted_.store(true, std::memory_order_relaxed);
  return progress_lock_.exchange(kMarked, std::memory_order_acq_rel) == kFree;
}

void Engine::submit(Submission submission) {
  switch (submission) {
    case Submission::kAwaited:
      return poller_.wake();
    case Submission::kSmall:
      if (!try_lock_or_mark()) return poller_.wake();
      poll_as_owner();
      return release();
    case Submission::kLarge:
      wanted_.store(true, std::memory_order_relaxed);
      large_.store(true, std::memory_order_relaxed);
      poller_.wake();
      if (config_.background) progress_thread_.wake();
      return;
  }
}

void Engine::wait(Work& work, TimeNs deadline) {
  while (!work.done() && (deadline == kNever || now_ns() < deadline)) {
    if (!try_lock() && !take_over(work)) {
      if (work.done()) break;
      sleeping_.fetch_add(1);
      const bool free = try_lock_or_mark();
      if (!free) work.sleep_until_done(config_.background ? deadline : now_ns() + kMillisecond);
      sleeping_.fetch_sub(1);
      if (!free) continue;
    }
    run(&work, deadline);
    release();
  }
}

// Spins for the lock, which the progress thread releases to a waiter after its next poll: no thread
// has to be woken for an operation that is about to end. Large work stays with the progress thread.
bool Engine::take_over(const Work& work) {
  if (large_.load(std::memory_order_relaxed)) return false;
  const bool yields = oversubscribed();
  const TimeNs until = now_ns() + config_.spin_ns;
  bool taken = false;
  spinning_.fetch_add(1);
  while (!taken && !work.done() && now_ns() < until) {
    if (yields) {
      std::this_thread::yield();
    } else {
      pause();
    }
    taken = try_lock();
  }
  spinning_.fetch_sub(1);
  return taken;
}

ProgressThread::Next Engine::progress_turn(bool called) {
  using Next = ProgressThread::Next;
  const unsigned passes = passes_.load(std::memory_order_relaxed);
  const bool run_by_others = seen_passes_.exchange(passes, std::memory_order_relaxed) != passes;
  for (;;) {
    // The holder wakes the progress thread if work is left.
    if (!try_lock_or_mark()) return Next::kSleep;
    if (called || !run_by_others) run(nullptr, kNever);
    seen_passes_.store(passes_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    const bool left = has_pending();
    if (!left) large_.store(false, std::memory_order_relaxed);
    const bool marked = unlock();
    if (left) return Next::kPollAgain;
    if (!marked) return Next::kSleep;
  }
}

}  // namespace fastgpu
