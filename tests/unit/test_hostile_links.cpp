// A connector meets peers that break the protocol. Only the connection of such a peer may end.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "control_ranks.h"

namespace fastgpu::test {
namespace {

// Rank 1 of the group, played by the test; rank 0 is a real connector.
struct Hostile {
  // Its group has rank 1 over unix sockets or over TCP.
  explicit Hostile(bool is_unix = true) {
    victim.attach({{}, {is_unix, kName, {}}, healthy.address(true)});
  }

  Link dial(bool is_unix) {
    if (is_unix) return Link(dial_unix(victim.connector.unix_name()));
    return Link(make_tcp_stream(dial_tcp({"127.0.0.1", victim.connector.listen("127.0.0.1", {})})));
  }
  ControlMessage message(ControlKind kind, uint32_t number = 0) const {
    ControlMessage made;
    made.kind = kind;
    made.communicator = kGroup;
    made.from = 1;
    made.to = 0;
    made.number = number;
    return made;
  }
  static UniqueFd copy_of(int fd) { return UniqueFd(::dup(fd)); }
  ControlMessage hello(bool is_unix) {
    ControlMessage made;
    made.failure.message = kName;
    if (!is_unix) return made;
    made.descriptors.push_back(copy_of(bell.page_fd()));
    made.descriptors.push_back(copy_of(bell.event_fd()));
    return made;
  }
  // Opens a link, waits for the welcome, and sends `bad` over it: the peer must be lost.
  std::string lost_after(ControlMessage bad, bool is_unix = true) {
    Link link = dial(is_unix);
    link.send(hello(is_unix));
    receive(link);
    link.send(std::move(bad));
    const std::string heard = victim.sink->wait_for("lost 1");
    check_alive();
    return heard;
  }
  // Sends `first` on a new connection: it must be closed, and nobody is lost.
  void closed_after(ControlMessage first) {
    check_refused(dial(true), std::move(first));
    CHECK_EQ(victim.sink->count(), 0U);
    check_alive();
  }
  static void check_refused(Link link, ControlMessage first) {
    link.send(std::move(first));
    ControlMessage refusal;
    Received received = wait(link, refusal);
    if (received == Received::kMessage) {
      CHECK(refusal.kind == ControlKind::kFail);
      received = wait(link, refusal);
    }
    CHECK(received == Received::kClosed);
  }
  static Received wait(Link& link, ControlMessage& received) {
    const TimeNs limit = now_ns() + 20 * kSecond;
    for (;;) {
      const Received result = link.receive(received);
      if (result != Received::kNothing || now_ns() > limit) return result;
      std::this_thread::yield();
    }
  }
  static ControlMessage receive(Link& link) {
    ControlMessage received;
    link.flush();
    CHECK(wait(link, received) == Received::kMessage);
    return received;
  }
  // A healthy rank 2 can still connect.
  void check_alive() {
    healthy.attach({victim.address(true), {}, {}});
    healthy.connector.open({{kGroup, 2}, 0}, 0);
    victim.sink->wait_for("receiver 2 0");
    healthy.sink->wait_for("sender 0 0");
  }

  static constexpr const char* kName = "fastgpu-hostile";

  Doorbell bell = Doorbell::create();
  Rank healthy{2};
  Rank victim{0, /*leave_limit=*/0};
};

UniqueFd memory_of(std::size_t size_bytes, int seals) {
  UniqueFd memory(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK_EQ(::ftruncate(memory.get(), static_cast<off_t>(size_bytes)), 0);
  if (seals != 0) CHECK_EQ(::fcntl(memory.get(), F_ADD_SEALS, seals), 0);
  return memory;
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

TEST(a_second_hello_on_a_link_loses_its_sender) {
  for (const bool is_unix : {true, false}) {
    Hostile hostile(is_unix);
    CHECK(has(hostile.lost_after(hostile.hello(is_unix), is_unix), "broke the control protocol"));
  }
}

TEST(a_second_link_of_one_process_is_refused_and_the_first_stays) {
  Hostile hostile;
  Link first = hostile.dial(true);
  first.send(hostile.hello(true));
  Hostile::receive(first);
  hostile.closed_after(hostile.hello(true));
  first.send(hostile.message(ControlKind::kLeave));
  hostile.victim.sink->wait_for("left 1");
}

TEST(a_ring_that_cannot_be_taken_loses_its_sender) {
  const ShmRingConfig config;
  for (const int descriptors : {0, 2}) {
    Hostile hostile;
    ControlMessage bad = hostile.message(ControlKind::kRing);
    for (int i = 0; i < descriptors; ++i) bad.descriptors.push_back(create_shm_ring(config));
    CHECK(has(hostile.lost_after(std::move(bad)), "without its descriptor"));
  }
  for (const int seals : {0, F_SEAL_SHRINK | F_SEAL_GROW}) {
    Hostile hostile;
    ControlMessage bad = hostile.message(ControlKind::kRing);
    bad.descriptors.push_back(memory_of(1 << 20, seals));
    CHECK(has(hostile.lost_after(std::move(bad)), "ring"));
  }
  Hostile hostile(/*is_unix=*/false);
  CHECK(has(hostile.lost_after(hostile.message(ControlKind::kRing), /*is_unix=*/false), "ring"));
}

TEST(a_lane_opened_twice_loses_its_sender) {
  Hostile hostile;
  Link link = hostile.dial(true);
  link.send(hostile.hello(true));
  for (int i = 0; i < 2; ++i) {
    ControlMessage ring = hostile.message(ControlKind::kRing, 3);
    ring.descriptors.push_back(create_shm_ring({}));
    link.send(std::move(ring));
  }
  CHECK(has(hostile.victim.sink->wait_for("lost 1"), "opened lane 3 twice"));
  hostile.check_alive();
}

TEST(a_peer_that_leaves_with_channels_that_never_come_is_lost) {
  for (const bool is_unix : {true, false}) {
    Hostile hostile(is_unix);
    Link link = hostile.dial(is_unix);
    link.send(hostile.hello(is_unix));
    Hostile::receive(link);
    link.send(hostile.message(ControlKind::kLeave, 5));
    link = Link();
    CHECK(has(hostile.victim.sink->wait_for("lost 1"),
              "had opened 5 channels, but only 0 of them arrived"));
    hostile.check_alive();
  }
}

// The victim refuses the connections of its peers when it has no descriptors.
TEST(a_peer_that_refuses_a_link_says_why) {
  Rank left(0);
  const std::string name = "fastgpu-refusing-" + std::to_string(::getpid());
  const UniqueFd listener = listen_unix(name);
  left.attach({{}, {true, name, {}}, {}});
  left.connector.open({{kGroup, 0}, 1}, 0);
  UniqueFd socket;
  while (!socket) socket = accept_connection(listener.get());
  refuse(Link(std::move(socket)), make_failure(ErrorKind::kOutOfResources, "ran out of memory"));
  CHECK_EQ(left.sink->wait_for("failed 1"), "failed 1 rank 1 ran out of memory");
}

TEST(a_segment_that_cannot_be_taken_loses_its_sender) {
  Hostile without;
  CHECK(has(without.lost_after(without.message(ControlKind::kSegment)), "segment 0"));
  Hostile unsealed;
  ControlMessage bad = unsealed.message(ControlKind::kSegment);
  bad.descriptors.push_back(memory_of(4096, 0));
  CHECK(has(unsealed.lost_after(std::move(bad)), "sealed"));
  Hostile numbered;
  bad = numbered.message(ControlKind::kSegment, 0xffffffff);
  bad.descriptors.push_back(memory_of(4096, F_SEAL_SHRINK));
  CHECK(has(numbered.lost_after(std::move(bad)), "segment 4294967295"));
}

TEST(device_memory_without_its_descriptor_loses_its_sender) {
  Hostile hostile;
  CHECK(has(hostile.lost_after(hostile.message(ControlKind::kDeviceSegment)),
            "without its descriptor"));
}

TEST(other_messages_at_the_wrong_time_lose_their_sender) {
  for (const ControlKind kind :
       {ControlKind::kWelcome, ControlKind::kStream, ControlKind::kProbe}) {
    Hostile hostile;
    CHECK(has(hostile.lost_after(hostile.message(kind)), "broke the control protocol"));
  }
}

TEST(a_hello_without_a_doorbell_is_refused) {
  Hostile hostile;
  hostile.closed_after(hostile.hello(/*is_unix=*/false));
  Hostile second;
  ControlMessage pages = second.hello(true);
  pages.descriptors[1] = memory_of(4096, F_SEAL_SHRINK);
  second.closed_after(std::move(pages));
}

TEST(a_hello_of_a_process_without_a_common_group_is_refused) {
  for (const bool is_unix : {true, false}) {
    Hostile hostile(is_unix);
    for (const std::string& name :
         {std::string(), std::string("fastgpu-stranger"), hostile.victim.connector.unix_name()}) {
      ControlMessage bad = hostile.hello(is_unix);
      bad.failure.message = name;
      Hostile::check_refused(hostile.dial(is_unix), std::move(bad));
    }
    CHECK_EQ(hostile.victim.sink->count(), 0U);
  }
}

TEST(a_bad_hello_does_not_stop_the_good_one) {
  Hostile hostile;
  Link bad = hostile.dial(true);
  bad.send(hostile.hello(/*is_unix=*/false));
  Link good = hostile.dial(true);
  good.send(hostile.hello(true));
  CHECK(Hostile::receive(good).kind == ControlKind::kWelcome);
}

TEST(a_rank_of_another_process_cannot_be_spoken_for) {
  Hostile hostile;
  ControlMessage bad = hostile.message(ControlKind::kLeave);
  bad.from = 2;
  CHECK(has(hostile.lost_after(std::move(bad)), "it speaks for rank 2"));
}

TEST(a_peer_that_sends_without_pause_does_not_hold_up_others) {
  Hostile hostile;
  Link link = hostile.dial(true);
  link.send(hostile.hello(true));
  Hostile::receive(link);
  std::atomic<bool> stop{false};
  std::thread flood([&] {
    while (!stop.load()) {
      if (link.all_sent()) link.send(hostile.message(ControlKind::kLeave, 1000));
      link.flush();
    }
  });
  hostile.check_alive();
  stop.store(true);
  flood.join();
}

// The peer answers no probe, but it has opened a link.
TEST(an_open_link_takes_the_place_of_a_probe) {
  Hostile hostile;
  Link link = hostile.dial(true);
  link.send(hostile.hello(true));
  Hostile::receive(link);
  CHECK(hostile.victim.connector.probe(Hostile::kName, now_ns() + 20 * kSecond));
}

// The victim's probe of a hostile process: its memory is empty, or it is no memory.
TEST(a_hostile_answer_to_a_probe_is_no_shared_memory) {
  for (const int what : {0, 1, 2}) {
    const std::string name = "fastgpu-hostile-" + std::to_string(::getpid());
    const UniqueFd listener = listen_unix(name);
    std::thread answering([&] {
      UniqueFd socket;
      while (!socket) socket = accept_connection(listener.get());
      Link link(std::move(socket));
      ControlMessage answer = Hostile::receive(link);
      if (what == 0) answer.descriptors.push_back(memory_of(0, 0));
      if (what == 1) answer.descriptors.emplace_back(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
      link.send(std::move(answer));
    });
    Rank victim(0);
    CHECK(!victim.connector.probe(name, now_ns() + 20 * kSecond));
    answering.join();
  }
}

}  // namespace
}  // namespace fastgpu::test
