#include "engine/engine.h"

#include <algorithm>
#include <utility>

namespace fastgpu {
namespace {

// Reading the clock costs as much as a look at a few channels.
constexpr unsigned kLooksPerClock = 8;
// How often those that are attentive, but not busy, get their turn.
constexpr unsigned kPassesPerRound = 8;
// The looks of a caller that has the engine to itself: about a microsecond. And how often such a
// caller runs the engine all the same, for the sake of those that are attentive.
constexpr int kLooksAlone = 32;
constexpr unsigned kCallsPerRound = 64;
// How often time-outs are looked at while something moves.
constexpr unsigned kPassesPerExpiry = 1024;
// When the background relieves a thread that left something and went off. Where it has a core to
// itself that is soon; where it must take one from a rank, that costs 20 us and more.
constexpr TimeNs kReliefNearby = 50 * kMicrosecond;
constexpr TimeNs kRelief = kMillisecond;

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
  const TimeNs by_share = tight_shares_ > 0 ? kRelief : kReliefNearby;
  progress_thread_.set_delay(config_.takeover_delay_ns > 0 ? config_.takeover_delay_ns : by_share);
}

void Engine::add(std::shared_ptr<Pollable> pollable) {
  if (config_.background) progress_thread_.start();
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
    // From inside a pass: it goes on over what is left, and drops this one at its end.
    for (auto& entry : pollables_) {
      if (entry.get() == pollable) removed_.push_back(std::move(entry));
    }
    return;
  }
  // The progress thread takes the change at its next pass, however long it goes on running.
  while (merged_version_.load(std::memory_order_acquire) < version) {
    if (begin()) {
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
  return poll_all(std::exchange(poll_idle_next_, false) || pass % kPassesPerRound == 0);
}

bool Engine::finished(const Work* work) const {
  if (work != nullptr) return work->done();
  if (spinning_.load(std::memory_order_relaxed) > 0 && !large_.load(std::memory_order_relaxed)) {
    return true;
  }
  return !anything_busy();
}

// The caller holds the progress lock. Ends when `work` is done (without one: when nothing is
// pending, or a waiter would rather run it), or at the deadline.
void Engine::run(const Work* work, TimeNs deadline) {
  progress_owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  const TimeNs spin_ns = oversubscribed() ? 0 : config_.spin_ns;
  TimeNs idle_since = 0;
  for (unsigned looks = 0;;) {
    const bool moved = poll_once();
    if (finished(work)) break;
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
    if (idle < spin_ns + config_.yield_ns) {
      std::this_thread::yield();
    } else {
      sleep(deadline);
      idle_since = 0;
    }
  }
  progress_owner_.store(std::thread::id{}, std::memory_order_relaxed);
}

void Engine::pass() {
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

// Says whether anything is pending.
bool Engine::has_pending() noexcept {
  wanted_.store(false, std::memory_order_relaxed);
  const bool left = anything_busy();
  if (left) wanted_.store(true, std::memory_order_relaxed);
  return left;
}

int Engine::looks_alone() noexcept {
  if (wanted_.load(std::memory_order_relaxed)) return 0;
  if (++calls_alone_ % kCallsPerRound == 0) {
    poll_idle_next_ = true;
    return 0;
  }
  return oversubscribed() ? 1 : kLooksAlone;
}

void Engine::release() {
  const bool left = has_pending();
  const bool marked = give_back();
  if (left || marked) leave();
}

// What is still pending goes on in the background: at once, where somebody sleeps until it is done.
void Engine::leave() {
  wanted_.store(true, std::memory_order_relaxed);
  if (!config_.background) return;
  if (large_.load(std::memory_order_relaxed) || sleeping_.load(std::memory_order_relaxed) > 0) {
    progress_thread_.wake();
  } else if (progress_thread_.wake_later()) {
    seen_passes_.store(passes_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
}

// Takes the progress lock, or has its holder leave() when it gives it back.
bool Engine::begin_or_mark() noexcept {
  if (begin()) return true;
  wanted_.store(true, std::memory_order_relaxed);
  return progress_lock_.exchange(kMarked, std::memory_order_acq_rel) == kFree;
}

void Engine::submitted() {
  wanted_.store(true, std::memory_order_relaxed);
  large_.store(true, std::memory_order_relaxed);
  poller_.wake();
  if (config_.background) progress_thread_.wake();
}

void Engine::submitted_small() {
  if (!begin_or_mark()) return poller_.wake();
  pass();
  release();
}

void Engine::wait(Work& work, TimeNs deadline) {
  while (!work.done() && (deadline == kNever || now_ns() < deadline)) {
    if (!begin() && !take_over(work)) {
      if (work.done()) break;
      sleeping_.fetch_add(1);
      const bool free = begin_or_mark();
      if (!free) work.sleep_until_done(config_.background ? deadline : now_ns() + kMillisecond);
      sleeping_.fetch_sub(1);
      if (!free) continue;
    }
    run(&work, deadline);
    release();
  }
}

// The background gives the progress lock to a waiter at its next look, so that no thread is woken
// for an operation that is about to be done.
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
    taken = begin();
  }
  spinning_.fetch_sub(1);
  return taken;
}

ProgressThread::Next Engine::progress_turn(bool called) {
  using Next = ProgressThread::Next;
  const unsigned passes = passes_.load(std::memory_order_relaxed);
  const bool run_by_others = seen_passes_.exchange(passes, std::memory_order_relaxed) != passes;
  for (;;) {
    // Another holder asks again when it leaves something.
    if (!begin_or_mark()) return Next::kSleep;
    if (called || !run_by_others) run(nullptr, kNever);
    seen_passes_.store(passes_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    const bool left = has_pending();
    if (!left) large_.store(false, std::memory_order_relaxed);
    const bool marked = give_back();
    if (left) return Next::kPollAgain;
    if (!marked) return Next::kSleep;
  }
}

}  // namespace fastgpu
