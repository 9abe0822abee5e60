// Connections of strangers, and of impostors that know the group's number, must not disturb two
// healthy ranks. Broken members of a group are in test_broken_members.cpp.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "shortages.h"
#include "sim/raw_peer.h"

namespace fastgpu::test {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint64_t kUnknownGroup = 0x1234567890abcdef;

struct Garbage {
  const char* name;
  Bytes bytes;
};

WireControl control(uint8_t kind, uint64_t group, int from, int to, uint32_t number = 0) {
  return {.kind = kind, .communicator = group, .from = from, .to = to, .number = number};
}

// Bytes that are no control message, framed as for unix sockets or TCP.
std::vector<Garbage> broken_messages(bool is_unix) {
  const auto framed = [&](const WireControl& message) {
    return is_unix ? message.packet() : message.stream();
  };
  std::vector<Garbage> all;
  all.push_back({"a magic of another program", framed({.magic = "MPI1"})});
  all.push_back({"a magic of another version", framed({.magic = "FGG0"})});
  all.push_back({"kind 0", framed({.kind = 0})});
  all.push_back({"kind 9", framed({.kind = 9})});
  all.push_back({"failure kind 8", framed({.kind = kFailKind, .failure_kind = 8})});
  Bytes longer = WireControl{}.packet();
  longer.push_back({});
  Bytes shorter = WireControl{.text = "text"}.packet();
  shorter.pop_back();
  for (const Bytes& bytes : {longer, shorter}) {
    all.push_back(
        {"sizes that do not add up",
         is_unix ? bytes
                 : WireBytes().u32(static_cast<uint32_t>(bytes.size())).append(bytes).bytes()});
  }
  if (is_unix) {
    all.push_back({"one byte", Bytes(1)});
    all.push_back({"47 bytes", Bytes(47)});
    all.push_back({"4096 bytes of 0xff", Bytes(4096, std::byte{0xff})});
    all.push_back({"5000 bytes", Bytes(5000)});
  } else {
    all.push_back({"a request for a web page", WireBytes().text("GET / HTTP/1.1\r\n\r\n").bytes()});
    all.push_back({"an empty message", Bytes(4)});
    all.push_back({"an oversized length", WireBytes().u32(2049).bytes()});
    all.push_back({"the largest length", WireBytes().u32(0xffffffff).bytes()});
    all.push_back(
        {"2048 bytes of 0xff", WireBytes().u32(2048).append(Bytes(2048, std::byte{0xff})).bytes()});
  }
  return all;
}

RawConnection connect(const RankAddress& rank, bool is_unix) {
  return is_unix ? RawConnection::over_unix(rank.unix_name)
                 : RawConnection::over_tcp(rank.tcp_port);
}

// The rank must close the connection on which these bytes came.
void check_turned_away(const RankAddress& rank, bool is_unix, const std::string& name,
                       const Bytes& bytes) {
  const RawConnection connection = connect(rank, is_unix);
  connection.send(bytes);
  if (!connection.is_closed_by_rank()) {
    fail(__FILE__, __LINE__, name + (is_unix ? " over unix" : " over TCP") + " is not refused");
  }
}

Options options_of_transport(bool is_unix) { return options_of("auto", is_unix ? "auto" : "tcp"); }

TEST(bytes_that_are_no_message_close_their_connection) {
  for (const bool is_unix : {true, false}) {
    HealthyRanks healthy(options_of_transport(is_unix));
    const RankAddress rank = healthy.address();
    for (const Garbage& garbage : broken_messages(is_unix)) {
      check_turned_away(rank, is_unix, garbage.name, garbage.bytes);
      healthy.check();
    }
  }
}

TEST(a_message_that_ends_early_is_dropped) {
  for (const bool is_unix : {true, false}) {
    HealthyRanks healthy(options_of_transport(is_unix));
    const RankAddress rank = healthy.address();
    const WireControl hello = control(kHelloKind, rank.communicator, 1, 0);
    const Bytes whole = is_unix ? hello.packet() : hello.stream();
    for (std::size_t size = 0; size < whole.size(); ++size) {
      RawConnection connection = connect(rank, is_unix);
      if (size > 0) connection.send(std::span(whole).first(size));
      connection.close();
    }
    healthy.check();
  }
}

TEST(messages_before_a_hello_change_nothing) {
  HealthyRanks healthy;
  const RankAddress rank = healthy.address();
  for (const bool is_unix : {true, false}) {
    for (const uint8_t kind : {kWelcomeKind, kRingKind, kSegmentKind, kLeaveKind, kFailKind}) {
      const WireControl message = control(kind, rank.communicator, 1, 0);
      check_turned_away(rank, is_unix, "kind " + std::to_string(kind),
                        is_unix ? message.packet() : message.stream());
      healthy.check();
    }
  }
}

TEST(more_descriptors_than_a_message_has_are_refused) {
  HealthyRanks healthy;
  const RawConnection connection = connect(healthy.address(), true);
  std::array<int, kMaxDescriptors + 1> passed{};
  passed.fill(connection.fd());
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof passed)> space{};
  Bytes bytes = control(kHelloKind, healthy.address().communicator, 1, 0).packet();
  iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = space.data();
  header.msg_controllen = space.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof passed);
  std::memcpy(CMSG_DATA(rights), passed.data(), sizeof passed);
  CHECK(::sendmsg(connection.fd(), &header, MSG_NOSIGNAL) > 0);
  CHECK(connection.is_closed_by_rank());
  healthy.check();
}

WireControl hello_of(const std::string& process) { return {.kind = kHelloKind, .text = process}; }

// A connection names the process of the group that it comes from, or, for a stream, the rank. It
// must not get in if that process or rank is connected already, or does not exist.
TEST(impostors_do_not_replace_a_member) {
  const Doorbell bell = Doorbell::create();
  for (const bool is_unix : {true, false}) {
    HealthyRanks healthy(options_of_transport(is_unix));
    const RankAddress rank = healthy.address();
    const uint64_t group = rank.communicator;
    const std::vector<std::pair<std::string, WireControl>> attempts = {
        {"a hello from the process itself", hello_of(rank.unix_name)},
        {"a hello from no process", hello_of("")},
        {"a hello from another process", hello_of("fastgpu-1-0123456789abcdef")},
        {"a hello with a long name", hello_of(std::string(kMaxTextBytes, 'x'))},
        {"a hello from a process that is connected",
         hello_of(healthy.runtime(1).connector().unix_name())},
        {"a stream from the rank itself", control(kStreamKind, group, 0, 0)},
        {"a stream from rank -1", control(kStreamKind, group, -1, 0)},
        {"a stream from rank 2 of 2", control(kStreamKind, group, 2, 0)},
        {"a stream from rank 2147483647", control(kStreamKind, group, 2147483647, 0)},
        {"a stream for an unknown group", control(kStreamKind, kUnknownGroup, 1, 0)},
        {"a stream for a lane that is open", control(kStreamKind, group, 1, 0, 0)},
        {"a stream for lane 1000", control(kStreamKind, group, 1, 0, 1000)},
        {"a stream for lane 4294967295", control(kStreamKind, group, 1, 0, 0xffffffff)},
    };
    for (const bool by_unix : {true, false}) {
      for (const auto& [name, message] : attempts) {
        const RawConnection connection = connect(rank, by_unix);
        if (by_unix && message.kind == kHelloKind) {
          connection.send(message.packet(), descriptors_of(bell));
        } else {
          connection.send(by_unix ? message.packet() : message.stream());
        }
        if (!connection.is_closed_by_rank()) fail(__FILE__, __LINE__, name + " is not refused");
        healthy.check();
      }
    }
  }
}

TEST(a_connection_that_does_not_read_its_answers_is_closed) {
  HealthyRanks healthy;
  const RankAddress rank = healthy.address();
  const RawConnection connection = connect(rank, true);
  const Bytes probe = control(kProbeKind, 0, -1, -1).packet();
  const bool closed = comes_true([&] { return !connection.send(probe) && errno != EAGAIN; });
  CHECK(closed);
  healthy.check();
}

// A store for rank 0 of a new group, which makes it wait before it takes part.
class SlowStore : public Store {
 public:
  explicit SlowStore(Store& store) : store_(store) {}
  void set(const std::string& key, const std::string& value) override { store_.set(key, value); }
  int64_t add(const std::string& key) override { return store_.add(key); }
  std::optional<std::string> try_get(const std::string& key) override {
    if (key == "fastgpu/1/leader/1") CHECK(comes_true([&] { return go_on.load(); }));
    return store_.try_get(key);
  }
  std::atomic<bool> go_on{false};

 private:
  Store& store_;
};

// Makes another group of the two processes, in which rank 1 connects to rank 0 before that one
// knows the group. `before` sends what comes even earlier.
void check_early_connection(HealthyRanks& healthy,
                            const std::function<void(const RankAddress&)>& before) {
  MemoryStore store;
  SlowStore slow(store);
  with_threads(2, [&](int rank) {
    Store& mine = rank == 0 ? static_cast<Store&>(slow) : store;
    const auto communicator = join_world(rank, 2, healthy.options(), mine, healthy.runtime(rank));
    std::vector<float> values(1000, 1.0F);
    CollectiveCall call = all_reduce_of(values);
    call.synchronous = false;
    if (rank == 1) before({record_at(store, 0), 0});
    const auto work = communicator->run(call);
    if (rank == 1) {
      // Waits until the control thread has done what it was asked before: the hello has left.
      healthy.runtime(1).connector().detach({kUnknownGroup, 0}, "");
      slow.go_on.store(true);
    }
    communicator->wait(*work, -1);
    CHECK_EQ(values.back(), 2.0F);
    communicator->shutdown();
  });
}

TEST(early_impostors_do_not_keep_early_members_out) {
  HealthyRanks healthy;
  check_early_connection(healthy, [&](const RankAddress& rank) {
    const std::array early = {
        hello_of("fastgpu-1-0123456789abcdef"),         // no such process
        hello_of(rank.unix_name),                       // the process itself
        control(kStreamKind, rank.communicator, 1, 0),  // a stream over a unix socket
    };
    for (const WireControl& message : early) {
      const RawConnection connection = connect(rank, true);
      connection.send(message.packet());
    }
  });
  healthy.check();
}

// A process that connects again and again, names a group that is not known, or says nothing, and
// leaves its connections open until it is killed.
pid_t start_flood(const RankAddress& rank, int connections, int done) {
  const Bytes hello = control(kHelloKind, kUnknownGroup, 1, 0).packet();
  const pid_t child = ::fork();
  if (child != 0) return child;
  try {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    std::vector<RawConnection> open;
    for (int i = 0; i < connections; ++i) {
      open.push_back(RawConnection::over_unix(rank.unix_name));
      if (i % 2 == 0) open.back().send(hello);
    }
    const char byte = 1;
    if (::write(done, &byte, 1) == 1) ::pause();
  } catch (...) {
    ::_exit(1);
  }
  ::_exit(0);
}

// Strangers may take few of the descriptors that a process has, so that its ranks still connect.
TEST(a_flood_of_connections_leaves_room_for_new_groups) {
  const LimitOfOpenFiles limit(1024);
  HealthyRanks healthy;
  std::array<int, 2> done{};
  CHECK_EQ(::pipe2(done.data(), O_CLOEXEC), 0);
  const UniqueFd reader(done[0]);
  const UniqueFd writer(done[1]);
  std::vector<pid_t> floods;
  for (int i = 0; i < 4; ++i) {
    floods.push_back(start_flood(healthy.address(), 900, writer.get()));
    char byte = 0;
    CHECK(is_ready(reader.get(), POLLIN) && ::read(reader.get(), &byte, 1) == 1);
    healthy.check();
  }
  check_early_connection(healthy, [](const RankAddress&) {});
  healthy.check();
  for (const pid_t flood : floods) {
    ::kill(flood, SIGKILL);
    ::waitpid(flood, nullptr, 0);
  }
  healthy.check();
}

TEST(thousands_of_short_connections_to_an_unknown_group_do_no_harm) {
  HealthyRanks healthy;
  const RankAddress rank = healthy.address();
  const WireControl hello = control(kHelloKind, kUnknownGroup, 1, 0);
  for (int i = 0; i < 5000; ++i) {
    const bool is_unix = i % 2 == 0;
    const RawConnection connection = connect(rank, is_unix);
    connection.send(is_unix ? hello.packet() : hello.stream());
  }
  healthy.check();
  check_early_connection(healthy, [](const RankAddress&) {});
}

}  // namespace
}  // namespace fastgpu::test
