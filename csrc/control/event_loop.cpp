#include "control/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "transport/wait/epoll.h"

namespace fastgpu {
namespace {

constexpr uint64_t kWakeId = 0;

void call(const EventLoop::Command& command) {
  try {
    command();
  } catch (const std::exception& error) {
    log(LogLevel::kError, "control_error", "reason=" + in_quotes(error.what()));
  }
}

}  // namespace

EventLoop::Watch& EventLoop::Watch::operator=(Watch&& other) noexcept {
  if (this != &other) {
    reset();
    loop_ = std::exchange(other.loop_, nullptr);
    id_ = other.id_;
    fd_ = other.fd_;
  }
  return *this;
}

void EventLoop::Watch::reset() noexcept {
  if (loop_ == nullptr) return;
  ::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
  std::exchange(loop_, nullptr)->handlers_.erase(id_);
}

EventLoop::EventLoop() : epoll_(make_epoll()), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!wake_) raise_system(ErrorKind::kRendezvous, "cannot start the control thread", errno);
  watch_edges(epoll_, wake_.get(), kWakeId);
}

EventLoop::Watch EventLoop::watch(int fd, Command handler) {
  const uint64_t id = next_id_++;
  watch_edges(epoll_, fd, id);
  handlers_[id] = std::make_shared<Command>(std::move(handler));
  return {this, id, fd};
}

void EventLoop::call_after(TimeNs delay, Command command) {
  timers_.emplace(now_ns() + delay, std::move(command));
}

void EventLoop::post(Command command) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(command));
  }
  ::eventfd_write(wake_.get(), 1);
}

void EventLoop::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
}

void EventLoop::run() {
  for (;;) {
    run_once(kNever);
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
  }
}

void EventLoop::run_once(TimeNs deadline) {
  if (!timers_.empty()) deadline = std::min(deadline, timers_.begin()->first);
  std::array<epoll_event, 64> events;
  const int count =
      ::epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms_until(deadline));
  for (int i = 0; i < count; ++i) {
    const uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
    if (id == kWakeId) {
      eventfd_t value = 0;
      ::eventfd_read(wake_.get(), &value);
      continue;
    }
    const auto found = handlers_.find(id);
    if (found == handlers_.end()) continue;
    const std::shared_ptr<Command> handler = found->second;  // it may destroy its own Watch
    call(*handler);
  }
  run_timers();
  run_posted();
}

void EventLoop::run_timers() {
  const TimeNs now = now_ns();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const Command command = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    call(command);
  }
}

void EventLoop::run_posted() {
  std::vector<Command> commands;
  {
    const std::lock_guard lock(mutex_);
    commands.swap(posted_);
  }
  for (const Command& command : commands) call(command);
}

}  // namespace fastgpu
