// The loop of the control thread: waits for sockets, timers and commands, and calls their handlers.
//
// Ownership: the loop owns no socket; a Watch must not exist longer than its loop.
// Threading: run() or run_once() by one thread, the loop's. post() and stop() from any thread.
// Everything else, and every handler, on the loop's thread, or before it starts.
// Invariants:
// 1. No handler is called after its Watch was destroyed.
// 2. A socket is watched edge-triggered, for input and output. A handler that leaves input unread
//    must post itself again.
// 3. An exception in a handler or command is logged and does not end the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace fastgpu {

class EventLoop {
 public:
  using Command = std::function<void()>;

  // Keeps a socket watched.
  class Watch {
   public:
    Watch() = default;
    Watch(EventLoop* loop, uint64_t id, int fd) : loop_(loop), id_(id), fd_(fd) {}
    Watch(Watch&& other) noexcept
        : loop_(std::exchange(other.loop_, nullptr)), id_(other.id_), fd_(other.fd_) {}
    Watch& operator=(Watch&& other) noexcept;
    ~Watch() { reset(); }
    void reset() noexcept;

   private:
    EventLoop* loop_ = nullptr;
    uint64_t id_ = 0;
    int fd_ = -1;
  };

  EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Calls the handler when `fd` may have become readable or writable, also if it is so already.
  // Destroy the Watch before `fd` is closed. Raises OutOfResourcesError.
  [[nodiscard]] Watch watch(int fd, Command handler);
  void call_after(TimeNs delay, Command command);
  void post(Command command);

  void run();                      // until stop()
  void run_once(TimeNs deadline);  // waits for one event at most, until `deadline`
  void stop();

 private:
  void run_posted();
  void run_timers();

  UniqueFd epoll_;
  UniqueFd wake_;
  std::mutex mutex_;  // guards the next two
  std::vector<Command> posted_;
  bool stopping_ = false;

  uint64_t next_id_ = 1;  // 0 is wake_
  std::map<uint64_t, std::shared_ptr<Command>> handlers_;
  std::multimap<TimeNs, Command> timers_;
};

}  // namespace fastgpu
