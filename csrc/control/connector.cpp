#include "control/connector.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <future>
#include <random>

#include "base/log.h"

namespace fastgpu {
namespace {

constexpr uint64_t kWakeId = 0;
constexpr uint64_t kUnixListenerId = 1;
constexpr uint64_t kTcpListenerId = 2;
constexpr uint64_t kFirstEntryId = 16;

std::string random_name() {
  std::random_device random;
  std::array<char, 48> text{};
  const int size = std::snprintf(text.data(), text.size(), "fastgpu-%d-%08x%08x", ::getpid(),
                                 random(), random());
  return std::string(text.data(), static_cast<std::size_t>(size));
}

// How many connections may be open that have not named a group known here. The rest of the
// process's descriptors is left for its groups.
std::size_t most_strangers() {
  constexpr rlim_t kMost = 4096;
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return kMost;
  return std::min(kMost, files.rlim_cur / 2);
}

void watch_fd(int epoll, int fd, uint64_t id) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = id;
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
    raise_system(ErrorKind::kRendezvous, "cannot watch a control connection", errno);
  }
}

}  // namespace

Connector::Connector(Poller& engine, const SymmetricHeap& heap)
    : engine_(engine),
      heap_(heap),
      most_strangers_(most_strangers()),
      unix_name_(random_name()),
      next_id_(kFirstEntryId) {
  unix_listener_ = listen_unix(unix_name_);
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!epoll_ || !wake_) raise_system(ErrorKind::kRendezvous, "cannot start the connector", errno);
  watch_fd(epoll_.get(), wake_.get(), kWakeId);
  watch_fd(epoll_.get(), unix_listener_.get(), kUnixListenerId);
  thread_ = std::thread([this] { loop(); });
}

Connector::~Connector() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
  thread_.join();
}

uint16_t Connector::listen(const PortRange& range) {
  const std::lock_guard lock(mutex_);
  if (!tcp_listener_) {
    tcp_listener_ = listen_tcp(range, &tcp_port_);
    watch_fd(epoll_.get(), tcp_listener_.get(), kTcpListenerId);
  } else if (range.first != 0 && (tcp_port_ < range.first || tcp_port_ > range.last)) {
    raise(ErrorKind::kRendezvous,
          "this process listens on port " + std::to_string(tcp_port_) +
              " since its first process group; FASTGPU_PORT_RANGE must admit it for later ones");
  }
  return tcp_port_;
}

bool Connector::probe(const std::string& unix_name, TimeNs deadline) const {
  try {
    ControlLink link(dial_patiently(unix_name), true);
    ControlMessage message;
    message.kind = ControlKind::kProbe;
    link.send(std::move(message));
    ControlMessage answer;
    for (;;) {
      const Received received = link.recv(answer);
      if (received == Received::kMessage) break;
      const TimeNs left = deadline - now_ns();
      if (received == Received::kClosed || left <= 0) return false;
      pollfd waiting{.fd = link.fd(), .events = POLLIN, .revents = 0};
      ::poll(&waiting, 1, static_cast<int>(left / kMillisecond) + 1);
    }
    if (answer.descriptors.size() != 1) return false;
    void* memory =
        ::mmap(nullptr, sizeof(uint32_t), PROT_READ, MAP_SHARED, answer.descriptors[0].get(), 0);
    if (memory == MAP_FAILED) return false;
    const bool same = *static_cast<const uint32_t*>(memory) == answer.number;
    ::munmap(memory, sizeof(uint32_t));
    return same;
  } catch (const CommError&) {
    return false;
  }
}

void Connector::attach(uint64_t communicator, int rank, std::shared_ptr<ConnectionSink> sink,
                       std::vector<PeerAddress> peers) {
  run_and_wait(
      [&] {
        members_[{communicator, rank}] = {.sink = sink, .addresses = peers, .peers = {}};
        resume_parked(communicator, rank);
      },
      kNever);
}

void Connector::open(uint64_t communicator, int rank, int peer, int lane) {
  post([=, this] {
    const MemberKey key{communicator, rank};
    Member* owner = member(communicator, rank);
    if (owner == nullptr) return;
    PeerState& state = owner->peers[peer];
    if (state.departed) return;
    ++state.opened;
    try {
      if (state.outgoing == 0) dial_link(key, *owner, peer);
      if (owner->addresses[static_cast<std::size_t>(peer)].shared_memory) {
        open_ring(entries_.at(state.outgoing), lane);
      } else {
        dial_stream(key, *owner, peer, lane, 0);
      }
    } catch (const CommError& error) {
      state.departed = true;
      owner->sink->on_departed(peer, false, error.what());
    }
  });
}

void Connector::fail(uint64_t communicator, int rank, const Failure& failure) {
  post([=, this] {
    for (auto& [id, entry] : entries_) {
      if (entry.communicator != communicator || entry.me != rank) continue;
      if (entry.role != Role::kIncoming && entry.role != Role::kOutgoing) continue;
      ControlMessage message;
      message.kind = ControlKind::kFail;
      message.communicator = communicator;
      message.from = rank;
      message.to = entry.peer;
      message.failure = failure;
      try {
        entry.link.send(std::move(message));
      } catch (const CommError&) {
        continue;  // that peer is gone already; its end of the link says so
      }
    }
  });
}

void Connector::detach(uint64_t communicator, int rank) {
  const auto leave = [=, this] {
    Member* owner = member(communicator, rank);
    if (owner == nullptr) return;
    std::vector<uint64_t> finished;
    for (auto& [id, entry] : entries_) {
      if (entry.communicator != communicator || entry.me != rank) continue;
      finished.push_back(id);
      if (entry.role != Role::kIncoming && entry.role != Role::kOutgoing) continue;
      ControlMessage message;
      message.kind = ControlKind::kLeave;
      message.communicator = communicator;
      message.from = rank;
      message.to = entry.peer;
      message.number = owner->peers[entry.peer].opened;
      try {
        entry.link.send(std::move(message));
      } catch (const CommError&) {
        continue;  // gone before us
      }
      if (!entry.link.empty()) {
        entry.role = Role::kLeaving;
        finished.pop_back();
      }
    }
    for (const uint64_t id : finished) drop(id);
    members_.erase({communicator, rank});
  };
  run_and_wait(leave, now_ns() + kSecond);
}

void Connector::post(std::function<void()> command) {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  ::eventfd_write(wake_.get(), 1);
}

void Connector::run_and_wait(const std::function<void()>& command, TimeNs deadline) {
  if (std::this_thread::get_id() == thread_.get_id()) return command();
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> finished = done->get_future();
  post([command, done] {
    command();
    done->set_value();
  });
  if (deadline == kNever) return finished.wait();
  finished.wait_for(std::chrono::nanoseconds(deadline - now_ns()));
}

void Connector::run_commands() {
  std::vector<std::function<void()>> commands;
  {
    const std::lock_guard lock(mutex_);
    commands.swap(commands_);
  }
  for (const auto& command : commands) {
    try {
      command();
    } catch (const CommError& error) {  // a link broke under it; its own event says so to its owner
      log(LogLevel::kInfo, "link_closed", "reason=" + quoted(error.what()));
    }
  }
}

void Connector::loop() {
  std::array<epoll_event, 64> events;
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    for (int i = 0; i < count; ++i) {
      const uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
      if (id == kWakeId) {
        eventfd_t value = 0;
        ::eventfd_read(wake_.get(), &value);
      } else if (id == kUnixListenerId) {
        accept_all(unix_listener_.get(), true);
      } else if (id == kTcpListenerId) {
        accept_all(tcp_listener_.get(), false);
      } else {
        on_event(id, events[static_cast<std::size_t>(i)].events);
      }
    }
    run_commands();
  }
}

uint64_t Connector::watch(Entry entry) {
  const uint64_t id = next_id_++;
  watch_fd(epoll_.get(), entry.link.fd(), id);
  entries_.emplace(id, std::move(entry));
  return id;
}

void Connector::drop(uint64_t id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second.link.fd(), nullptr);
  entries_.erase(found);
}

void Connector::accept_all(int listener, bool is_unix) {
  try {
    for (;;) {
      UniqueFd socket = accept_connection(listener);
      if (!socket) return;
      make_room_for_stranger();
      const uint64_t id =
          watch({.link = ControlLink(std::move(socket), is_unix), .is_unix = is_unix});
      on_event(id, EPOLLIN);
    }
  } catch (const CommError& error) {  // out of descriptors: the dialler sees its connection close
    log(LogLevel::kError, "accept_failed", "reason=" + quoted(error.what()));
  }
}

// Closes the oldest connection that has not named a known group, when there are too many. The new
// one is more likely to be a rank's.
void Connector::make_room_for_stranger() {
  const auto is_stranger = [](const auto& item) {
    return item.second.role == Role::kAccepted || item.second.role == Role::kParked;
  };
  const auto strangers =
      static_cast<std::size_t>(std::count_if(entries_.begin(), entries_.end(), is_stranger));
  if (strangers < most_strangers_ || strangers == 0) return;
  const uint64_t oldest = std::find_if(entries_.begin(), entries_.end(), is_stranger)->first;
  log(LogLevel::kInfo, "stranger_dropped", "waiting=" + std::to_string(strangers));
  drop(oldest);
}

// Whether what waits may still leave. A peer that is gone may have said why, so its end is no error
// before all it sent has been read.
bool Connector::try_flush(Entry& entry) {
  try {
    entry.link.flush();
    return true;
  } catch (const CommError& error) {
    log(LogLevel::kInfo, "link_broke", "reason=" + quoted(error.what()));
    return false;
  }
}

void Connector::on_event(uint64_t id, uint32_t events) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  try {
    if ((!entry.connected || entry.role == Role::kStream) && !finish_connect(id, entry)) return;
    const bool can_send = try_flush(entry);
    if (entry.role == Role::kLeaving) {
      if (!can_send || entry.link.empty() || (events & EPOLLHUP) != 0) drop(id);
      return;
    }
    if (!read_messages(id, entry) || !can_send) {
      on_closed(id, "its process ended or its connection broke");
    }
  } catch (const CommError& error) {
    log(LogLevel::kInfo, "link_closed", "reason=" + quoted(error.what()));
    on_closed(id, error.what());
  }
}

Connector::Member* Connector::member(uint64_t communicator, int rank) {
  const auto found = members_.find({communicator, rank});
  return found == members_.end() ? nullptr : &found->second;
}

std::vector<UniqueFd> Connector::own_bell() const {
  std::vector<UniqueFd> descriptors;
  descriptors.emplace_back(::fcntl(engine_.doorbell().page_fd(), F_DUPFD_CLOEXEC, 0));
  descriptors.emplace_back(::fcntl(engine_.doorbell().event_fd(), F_DUPFD_CLOEXEC, 0));
  return descriptors;
}

}  // namespace fastgpu
