#include "engine/progress_thread.h"

#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "base/thread.h"

namespace fastgpu {
namespace {

UniqueFd make_timer() {
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  if (!timer) raise_system(ErrorKind::kRendezvous, "cannot make a timer", errno);
  return timer;
}

}  // namespace

ProgressThread::ProgressThread(Turn turn) : turn_(std::move(turn)), timer_(make_timer()) {}

ProgressThread::~ProgressThread() {
  stopping_.store(true);
  state_.store(kCalled);
  set_timer();
  if (thread_.joinable()) thread_.join();
}

bool ProgressThread::wake_later() {
  watched_.store(true, std::memory_order_relaxed);
  // A write, though it changes nothing: a load could miss the thread's latest write.
  if (state_.fetch_add(0) != kAsleep) return false;
  uint32_t expected = kAsleep;
  if (!state_.compare_exchange_strong(expected, kTimed)) return false;
  set_timer();
  return true;
}

void ProgressThread::wake() {
  if (state_.exchange(kCalled) != kCalled) set_timer();
}

void ProgressThread::start() {
  std::call_once(started_, [this] { thread_ = start_thread("fastgpu-engine", [this] { run(); }); });
}

// Two threads may write state_ in one order and set the timer in the other. So the timer is set
// until it agrees with state_.
void ProgressThread::set_timer() {
  for (bool called = false;; called = true) {
    called |= state_.load() == kCalled;
    const TimeNs delay = called ? 1 : std::max<TimeNs>(this->delay(), 1);
    itimerspec after{};
    after.it_value = {.tv_sec = delay / kSecond, .tv_nsec = delay % kSecond};
    ::timerfd_settime(timer_.get(), 0, &after, nullptr);
    if (called || state_.load() != kCalled) return;
  }
}

void ProgressThread::run() {
  while (!stopping_.load()) {
    uint64_t fired = 0;
    if (::read(timer_.get(), &fired, sizeof fired) < 0) continue;
    const bool called = state_.exchange(kAwake) == kCalled;
    watched_.store(false);
    if (stopping_.load()) return;
    if (turn_(called) == Next::kPollAgain || !fall_asleep()) set_timer();
  }
}

// False if wake() or wake_later() was called meanwhile.
bool ProgressThread::fall_asleep() {
  uint32_t expected = kAwake;
  if (!state_.compare_exchange_strong(expected, kAsleep)) return false;
  expected = kAsleep;
  // A caller of wake_later() may have found the thread awake just before.
  return !watched_.load() || !state_.compare_exchange_strong(expected, kTimed);
}

}  // namespace fastgpu
