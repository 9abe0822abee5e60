// Ranks with real connectors, for the tests of csrc/control/.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "control/connector.h"
#include "control_parts.h"

namespace fastgpu::test {

inline constexpr uint64_t kGroup = 99;

// A sink that another thread can wait for.
class WaitingSink final : public ConnectionSink {
 public:
  void on_sender(int peer, int lane, std::unique_ptr<SendChannel> channel) override {
    note([&] { noting_.on_sender(peer, lane, std::move(channel)); });
  }
  void on_receiver(int peer, int lane, std::unique_ptr<RecvChannel> channel) override {
    note([&] { noting_.on_receiver(peer, lane, std::move(channel)); });
  }
  void on_departed(int peer, bool in_order, const std::string& why) override {
    note([&] { noting_.on_departed(peer, in_order, why); });
  }
  void on_failed(int peer, const Failure& failure) override {
    note([&] { noting_.on_failed(peer, failure); });
  }
  void on_device_segment(int peer, uint32_t segment, uint64_t size_bytes, UniqueFd fd) override {
    note([&] { noting_.on_device_segment(peer, segment, size_bytes, std::move(fd)); });
  }
  void on_device_segment_mapped(int peer, uint32_t segment) override {
    note([&] { noting_.on_device_segment_mapped(peer, segment); });
  }

  // The first note that begins with `start`.
  std::string wait_for(const std::string& start) {
    std::unique_lock lock(mutex_);
    std::string found;
    const bool heard = changed_.wait_for(lock, std::chrono::seconds(20), [&] {
      for (const std::string& one : noting_.heard)
        if (found.empty() && one.starts_with(start)) found = one;
      return !found.empty();
    });
    if (!heard) CHECK_EQ("(not heard)", start);
    return found;
  }
  void wait_for_count(const std::string& start, std::size_t wanted) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return matches(start) >= wanted; });
    CHECK_EQ(matches(start), wanted);
  }
  std::size_t count_of(const std::string& start) {
    const std::lock_guard lock(mutex_);
    return matches(start);
  }
  std::size_t count() { return count_of(""); }

 private:
  void note(const std::function<void()>& what) {
    const std::lock_guard lock(mutex_);
    what();
    changed_.notify_all();
  }

  std::size_t matches(const std::string& start) const {
    return static_cast<std::size_t>(std::ranges::count_if(
        noting_.heard, [&](const std::string& one) { return one.starts_with(start); }));
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  NotingSink noting_;
};

// What a process has: rank `rank` of a group of 3.
struct Rank {
  explicit Rank(int number, TimeNs leave_limit = Connector::kLeaveLimit)
      : rank(number), connector(poller, heap, leave_limit) {}

  PeerAddress address(bool shared_memory) {
    if (shared_memory) return {true, connector.unix_name(), {}};
    return {false, connector.unix_name(), {{"127.0.0.1", connector.listen("127.0.0.1", {})}}};
  }
  void attach(std::vector<PeerAddress> peers, uint64_t group = kGroup) {
    connector.attach({group, rank}, sink, std::move(peers));
  }

  // Waits until the control thread has done what it had begun.
  void settle() { connector.detach({.communicator = 0, .rank = rank}, ""); }

  const int rank;
  Poller poller;
  SymmetricHeap heap;
  std::shared_ptr<WaitingSink> sink = std::make_shared<WaitingSink>();
  Connector connector;
};

inline std::string lanes_text(const char* what, int peer, int lane) {
  return std::string(what) + " " + std::to_string(peer) + " " + std::to_string(lane);
}

}  // namespace fastgpu::test
