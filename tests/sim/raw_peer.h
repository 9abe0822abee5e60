// For tests of hostile peers: connections that send raw bytes to a rank, and two healthy ranks that
// must not notice.
// Threading: the test's thread, but for the healthy ranks, which have a thread each.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "comm/topology.h"
#include "patience.h"
#include "sim/rank_threads.h"
#include "unit/wire_bytes.h"

namespace fastgpu::test {

class RawConnection {
 public:
  static RawConnection over_unix(const std::string& name) {
    UniqueFd socket;
    CHECK(comes_true([&] { return static_cast<bool>(socket = dial_unix(name)); }));
    return RawConnection(std::move(socket));
  }
  static RawConnection over_tcp(uint16_t port) {
    UniqueFd socket = dial_tcp({"127.0.0.1", port});
    CHECK(is_ready(socket.get(), POLLOUT));
    CHECK_EQ(dial_result(socket.get()), 0);
    return RawConnection(std::move(socket));
  }
  explicit RawConnection(UniqueFd socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.get(); }
  void close() { socket_.reset(); }

  // Over a unix socket these bytes are one message. False when the rank has closed the connection.
  bool send(std::span<const std::byte> bytes) const {
    return ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  void send(std::span<const std::byte> bytes, std::span<const int> descriptors) const {
    CHECK(send_message(socket_.get(), bytes, descriptors));
  }

  // The next message of the rank, over a unix socket.
  Message receive() const {
    Message message;
    CHECK(is_ready(socket_.get(), POLLIN));
    CHECK(recv_message(socket_.get(), message) == Received::kMessage);
    return message;
  }

  // Waits until the rank closes the connection.
  bool is_closed_by_rank() const {
    std::array<std::byte, 4096> bytes;
    for (;;) {
      if (!is_ready(socket_.get(), POLLIN)) return false;
      const ssize_t got = ::recv(socket_.get(), bytes.data(), bytes.size(), 0);
      if (got == 0 || (got < 0 && errno != EAGAIN)) return true;
    }
  }

 private:
  UniqueFd socket_;
};

// The descriptors that come with a hello and a welcome over a unix socket.
inline std::array<int, 2> descriptors_of(const Doorbell& bell) {
  return {bell.page_fd(), bell.event_fd()};
}

// How a rank is reached, also over TCP.
struct RankAddress : PeerRecord {
  uint16_t tcp_port = 0;
};

// The record that a rank has written to the store, in the first use of it.
inline PeerRecord record_at(Store& store, int rank) {
  const auto text = wait_for(store, "fastgpu/1/rank/" + std::to_string(rank), now_ns() + kPatience);
  CHECK(text.has_value());
  return record_from_text(*text);
}

// Two ranks of a group that reduce small and large tensors all the time. Each has its own engine,
// as a process has. Connections from elsewhere must not disturb them.
class HealthyRanks {
 public:
  explicit HealthyRanks(const Options& options = {}) : options_(options) {
    for (int rank = 0; rank < 2; ++rank) {
      threads_.emplace_back([this, rank] { run(rank); });
    }
    try {
      check();
    } catch (...) {
      stop();
      throw;
    }
  }
  ~HealthyRanks() { stop(); }
  HealthyRanks(const HealthyRanks&) = delete;
  HealthyRanks& operator=(const HealthyRanks&) = delete;

  Runtime& runtime(int rank) { return processes_[static_cast<std::size_t>(rank)]; }
  const Options& options() const { return options_; }
  // How rank 0 is reached, and by which number it knows the group.
  RankAddress address() {
    return {record_at(store_, 0), runtime(0).connector().listen("127.0.0.1", {})};
  }

  // Both ranks go on: they finish ten more rounds. Raises the error of one that cannot.
  void check() {
    const std::array<int, 2> wanted = {rounds_[0].load() + 10, rounds_[1].load() + 10};
    const bool went_on = comes_true([&] {
      raise_error();
      return rounds_[0].load() >= wanted[0] && rounds_[1].load() >= wanted[1];
    });
    CHECK(went_on);
  }

 private:
  void stop() {
    stop_.store(true);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void run(int rank) {
    const auto index = static_cast<std::size_t>(rank);
    try {
      const auto communicator = join_world(rank, 2, options_, store_, processes_[index]);
      bool last = false;
      while (!last) {
        // The first element carries the wish to stop, so that both ranks stop after one round.
        std::vector<float> values(rounds_[index].load() % 2 == 0 ? 2 : 50'000, 1.0F);
        values.front() = stop_.load() ? 1.0F : 0.0F;
        communicator->wait(*communicator->run(all_reduce_of(values)), -1);
        CHECK_EQ(values.back(), 2.0F);
        last = values.front() > 0;
        rounds_[index].fetch_add(1);
      }
      communicator->shutdown();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void raise_error() {
    const std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(error_);
  }

  const Options options_;
  std::array<Runtime, 2> processes_;
  MemoryStore store_;
  std::array<std::atomic<int>, 2> rounds_{};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr error_;  // the first, guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace fastgpu::test
