// Connectors connect to other connectors, and meet peers that break the protocol. Only the
// connection of such a peer may end.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "control/connector.h"
#include "control_parts.h"

namespace fastgpu {
namespace {

constexpr uint64_t kGroup = 99;

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
  std::size_t count() {
    const std::lock_guard lock(mutex_);
    return noting_.heard.size();
  }

 private:
  void note(const std::function<void()>& what) {
    const std::lock_guard lock(mutex_);
    what();
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  test::NotingSink noting_;
};

// What a process has: rank `rank` of a group of 3.
struct Rank {
  explicit Rank(int number) : rank(number) {}

  PeerAddress address(bool shared_memory) {
    if (shared_memory) return {true, connector.unix_name(), {}};
    return {false, "", {{"127.0.0.1", connector.listen("127.0.0.1", {})}}};
  }
  void attach(std::vector<PeerAddress> peers) {
    connector.attach(kGroup, rank, sink, std::move(peers));
  }

  const int rank;
  Poller poller;
  SymmetricHeap heap;
  std::shared_ptr<WaitingSink> sink = std::make_shared<WaitingSink>();
  Connector connector{poller, heap};
};

std::string lanes_text(const char* what, int peer, int lane) {
  return std::string(what) + " " + std::to_string(peer) + " " + std::to_string(lane);
}

TEST(a_channel_opens_and_its_opener_leaves) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    Rank right(1);
    left.attach({{}, right.address(shared_memory), {}});
    right.attach({left.address(shared_memory), {}, {}});
    for (const int lane : {0, 4}) left.connector.open(kGroup, 0, 1, lane);
    for (const int lane : {0, 4}) {
      left.sink->wait_for(lanes_text("sender", 1, lane));
      right.sink->wait_for(lanes_text("receiver", 0, lane));
    }
    left.connector.detach(kGroup, 0, "it is done");
    CHECK_EQ(right.sink->wait_for("left 0"), "left 0 it is done");
    CHECK_EQ(left.sink->count(), 2U);
  }
}

TEST(a_channel_may_be_opened_before_the_peer_attaches) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    Rank right(1);
    left.attach({{}, right.address(shared_memory), {}});
    left.connector.open(kGroup, 0, 1, 2);
    if (!shared_memory) left.sink->wait_for("sender 1 2");
    right.attach({left.address(shared_memory), {}, {}});
    left.sink->wait_for("sender 1 2");
    right.sink->wait_for("receiver 0 2");
  }
}

TEST(a_failure_reaches_the_linked_ranks) {
  Rank left(0);
  Rank right(1);
  left.attach({{}, right.address(true), {}});
  right.attach({left.address(true), {}, {}});
  left.connector.open(kGroup, 0, 1, 0);
  right.sink->wait_for("receiver 0 0");
  Failure failure;
  failure.message = "out of memory";
  left.connector.fail(kGroup, 0, failure);
  CHECK_EQ(right.sink->wait_for("failed 0"), "failed 0 out of memory");
  failure.message = "too late";
  right.connector.fail(kGroup, 1, failure);
  CHECK_EQ(left.sink->wait_for("failed 1"), "failed 1 too late");
}

TEST(a_peer_whose_process_ends_is_lost) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    auto right = std::make_unique<Rank>(1);
    left.attach({{}, right->address(shared_memory), {}});
    right->attach({left.address(shared_memory), {}, {}});
    left.connector.open(kGroup, 0, 1, 0);
    right->sink->wait_for("receiver 0 0");
    right.reset();
    CHECK(left.sink->wait_for("lost 1").find("its process ended") != std::string::npos);
  }
}

TEST(a_peer_that_cannot_be_reached_is_lost) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    auto right = std::make_unique<Rank>(1);
    const PeerAddress address = right->address(shared_memory);
    right.reset();
    left.attach({{}, address, {}});
    left.connector.open(kGroup, 0, 1, 0);
    CHECK(left.sink->wait_for("lost 1").find("cannot be reached") != std::string::npos);
    left.connector.open(kGroup, 0, 1, 1);
    left.connector.detach(kGroup, 0, "it is done");
    CHECK_EQ(left.sink->count(), 1U);
  }
}

TEST(memory_can_be_mapped_within_a_machine) {
  Rank left(0);
  Rank right(1);
  CHECK(left.connector.probe(right.connector.unix_name(), now_ns() + 20 * kSecond));
  CHECK(!left.connector.probe("fastgpu-no-such-process", now_ns() + 20 * kSecond));
}

// Rank 1 of the group, played by the test; rank 0 is a real connector.
struct Hostile {
  Hostile() { victim.attach(std::vector<PeerAddress>(3)); }

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
    ControlMessage made = message(ControlKind::kHello);
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
  void closed_after(ControlMessage first, bool is_unix = true) {
    Link link = dial(is_unix);
    link.send(std::move(first));
    ControlMessage unused;
    CHECK(wait(link, unused) == Received::kClosed);
    CHECK_EQ(victim.sink->count(), 0U);
    check_alive();
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
    Rank healthy(2);
    healthy.attach({victim.address(true), {}, {}});
    healthy.connector.open(kGroup, 2, 0, 0);
    victim.sink->wait_for("receiver 2 0");
    healthy.sink->wait_for("sender 0 0");
  }

  Doorbell bell = Doorbell::create();
  Rank victim{0};
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
    Hostile hostile;
    CHECK(has(hostile.lost_after(hostile.hello(is_unix), is_unix), "broke the control protocol"));
  }
}

TEST(a_second_link_of_one_rank_is_refused_and_the_first_stays) {
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
  Hostile hostile;
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

TEST(other_messages_at_the_wrong_time_lose_their_sender) {
  for (const ControlKind kind :
       {ControlKind::kWelcome, ControlKind::kStream, ControlKind::kProbe}) {
    Hostile hostile;
    CHECK(has(hostile.lost_after(hostile.message(kind)), "broke the control protocol"));
  }
}

TEST(a_hello_without_a_doorbell_is_refused) {
  Hostile hostile;
  hostile.closed_after(hostile.message(ControlKind::kHello));
  ControlMessage pages = hostile.message(ControlKind::kHello);
  pages.descriptors.push_back(Hostile::copy_of(hostile.bell.page_fd()));
  pages.descriptors.push_back(memory_of(4096, F_SEAL_SHRINK));
  Hostile second;
  second.closed_after(std::move(pages));
}

TEST(a_hello_from_no_other_rank_of_the_group_is_refused) {
  for (const int from : {-1, 0, 3}) {
    Hostile hostile;
    ControlMessage bad = hostile.hello(true);
    bad.from = from;
    hostile.closed_after(std::move(bad));
  }
}

TEST(bad_hellos_that_were_parked_do_not_stop_the_good_ones) {
  Rank victim(0);
  Hostile tools;  // for its messages
  std::vector<Link> links;
  for (const bool good : {false, true}) {
    links.emplace_back(dial_unix(victim.connector.unix_name()));
    links.back().send(good ? tools.hello(true) : tools.message(ControlKind::kHello));
  }
  victim.attach(std::vector<PeerAddress>(3));
  CHECK(Hostile::receive(links[1]).kind == ControlKind::kWelcome);
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
}  // namespace fastgpu
