// A member of a group sends wrong control messages: the group fails with an error that names that
// member. A second group of the same processes, without it, goes on.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "sim/raw_peer.h"

namespace fastgpu::test {
namespace {

// Rank 2 of three: the test itself, which keeps to the protocol until it is told to break it.
class BrokenMember {
 public:
  // Meets the others at the store.
  BrokenMember(Store& store, const PeerRecord& like_rank_0)
      : name_("fastgpu-test-" + std::to_string(::getpid()) + "-" + std::to_string(++count_)),
        listener_(listen_unix(name_)) {
    PeerRecord mine = like_rank_0;
    mine.host = "broken";
    mine.unix_name = name_;
    mine.world = 3;
    store.set("fastgpu/1/rank/2", to_text(mine));
    store.set("fastgpu/1/leader/2", "0");  // it shares memory with rank 0
    rank_0_ = record_at(store, 0);
  }

  WireControl message(uint8_t kind, uint32_t number = 0) const {
    return {
        .kind = kind, .communicator = rank_0_.communicator, .from = 2, .to = 0, .number = number};
  }

  // The link that rank 0 has dialled, after kWelcome. This process has the larger name, so if it
  // dialled, its connection would not become the link.
  RawConnection link() const {
    for (;;) {
      CHECK(is_ready(listener_.get(), POLLIN));
      RawConnection connection(accept_connection(listener_.get()));
      const Message hello = connection.receive();
      CHECK_EQ(hello.descriptors.size(), 2U);
      const std::string text(reinterpret_cast<const char*>(hello.bytes.data()), hello.bytes.size());
      if (!text.ends_with(rank_0_.unix_name)) {
        others_.push_back(std::move(connection));  // rank 1's stays as it is
        continue;
      }
      const WireControl welcome{.kind = kWelcomeKind, .text = name_};
      connection.send(welcome.packet(), descriptors_of(bell_));
      return connection;
    }
  }

 private:
  inline static std::atomic<int> count_{0};
  const std::string name_;
  const UniqueFd listener_;
  const Doorbell bell_ = Doorbell::create();
  PeerRecord rank_0_;
  mutable std::vector<RawConnection> others_;
};

struct Attack {
  const char* name;
  // Keeps what must stay open until the group has failed.
  std::function<RawConnection(const BrokenMember&)> run;
  ErrorKind kind = ErrorKind::kPeerLost;
  const char* words = "rank 2";
  int suspect = 2;
  bool is_violation = true;  // then the link is closed
};

// Has the member break the protocol while ranks 0 and 1 wait for it in an all_reduce. Both must be
// told who it was, and the group without it must go on.
void check_attack(HealthyRanks& healthy, const Attack& attack) {
  MemoryStore store;
  std::atomic<int> waiting{0};
  std::atomic<int> failed{0};
  const auto be_rank = [&](int rank) {
    const auto communicator = join_world(rank, 3, healthy.options(), store, healthy.runtime(rank));
    std::vector<float> values(1000, 1.0F);
    CollectiveCall call = all_reduce_of(values);
    call.synchronous = false;
    const auto work = communicator->run(call);
    waiting.fetch_add(1);
    try {
      communicator->wait(*work, -1);
    } catch (const CommError& error) {
      CHECK_EQ(static_cast<int>(error.failure().kind), static_cast<int>(attack.kind));
      CHECK(std::string(error.what()).find(attack.words) != std::string::npos);
      CHECK_EQ(error.failure().peer, attack.suspect);
      failed.fetch_add(1);
      return;
    }
    throw Failed("the all_reduce succeeded without rank 2");
  };
  try {
    with_threads(3, [&](int rank) {
      if (rank < 2) return be_rank(rank);
      const BrokenMember member(store, healthy.address());
      CHECK(comes_true([&] { return waiting.load() == 2; }));
      const RawConnection open = attack.run(member);
      CHECK(!attack.is_violation || open.is_closed_by_rank());
      CHECK(comes_true([&] { return failed.load() == 2; }));
    });
    healthy.check();
  } catch (const std::exception& error) {
    throw Failed(std::string(attack.name) + ": " + error.what());
  }
}

// A link on which the member then sends one message.
std::function<RawConnection(const BrokenMember&)> sends(const WireControl& message,
                                                        const std::vector<int>& descriptors) {
  return [=](const BrokenMember& member) {
    RawConnection link = member.link();
    WireControl whole = message;
    whole.communicator = member.message(message.kind).communicator;
    whole.from = 2;
    whole.to = 0;
    link.send(whole.packet(), descriptors);
    return link;
  };
}

UniqueFd memory_of(std::size_t size_bytes, int seals) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
  CHECK_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

TEST(rings_that_are_none_fail_the_group_of_their_sender) {
  HealthyRanks healthy(options_of("direct", "auto"));
  const UniqueFd ring = create_shm_ring({});
  const UniqueFd unsealed = memory_of(1 << 20, 0);
  const UniqueFd small = memory_of(4095, F_SEAL_SHRINK | F_SEAL_GROW);
  const UniqueFd blank = memory_of(1 << 20, F_SEAL_SHRINK | F_SEAL_GROW);
  const WireControl message{.kind = kRingKind};
  const WireControl other_lane{.kind = kRingKind, .number = 1000};
  const WireControl no_lane{.kind = kRingKind, .number = 0xffffffff};
  for (const Attack& attack : std::vector<Attack>{
           {"a ring without its descriptor", sends(message, {})},
           {"a ring with two descriptors", sends(message, {ring.get(), ring.get()})},
           {"a ring that is not sealed", sends(message, {unsealed.get()})},
           {"a ring that is too small", sends(message, {small.get()})},
           {"a ring of zeros", sends(message, {blank.get()})},
           {"a ring that is a directory", sends(message, {::open("/", O_RDONLY | O_CLOEXEC)})},
           {"a ring for lane 1000", sends(other_lane, {ring.get()})},
           {"a ring for lane 4294967295", sends(no_lane, {ring.get()})},
       }) {
    check_attack(healthy, attack);
  }
}

TEST(a_second_ring_for_a_lane_fails_the_group_of_its_sender) {
  HealthyRanks healthy(options_of("direct", "auto"));
  check_attack(healthy, {"a second ring for a lane", [](const BrokenMember& member) {
                           const UniqueFd ring = create_shm_ring({});
                           RawConnection link = member.link();
                           const std::array<int, 1> passed{ring.get()};
                           link.send(member.message(kRingKind).packet(), passed);
                           link.send(member.message(kRingKind).packet(), passed);
                           return link;
                         }});
}

TEST(messages_out_of_turn_fail_the_group_of_their_sender) {
  HealthyRanks healthy(options_of("direct", "auto"));
  const UniqueFd unsealed = memory_of(4096, 0);
  for (const Attack& attack : std::vector<Attack>{
           {"a second hello", sends({.kind = kHelloKind}, {})},
           {"a stream on a link", sends({.kind = kStreamKind}, {})},
           {"a welcome without a doorbell", sends({.kind = kWelcomeKind}, {})},
           {"a segment that is not sealed", sends({.kind = kSegmentKind}, {unsealed.get()})},
           {"an unknown kind", sends({.kind = 9}, {})},
           {"another magic", sends({.magic = "FGG0", .kind = kLeaveKind}, {})},
       }) {
    check_attack(healthy, attack);
  }
}

// The group's first ring from rank 2 claims to come from rank 1.
TEST(a_member_that_speaks_for_another_one_fails_the_group) {
  HealthyRanks healthy(options_of("direct", "auto"));
  check_attack(healthy, {"a ring of rank 1", [](const BrokenMember& member) {
                           RawConnection link = member.link();
                           WireControl ring = member.message(kRingKind);
                           ring.from = 1;
                           const UniqueFd memory = create_shm_ring({});
                           const std::array<int, 1> passed{memory.get()};
                           link.send(ring.packet(), passed);
                           return link;
                         }});
}

TEST(failure_reports_with_impossible_ranks_or_texts_are_only_reports) {
  HealthyRanks healthy(options_of("direct", "auto"));
  WireControl report{.kind = kFailKind, .failure_kind = 3, .op = "all_reduce", .text = "a lie"};
  // If the suspect that a report names does not exist, its sender is the suspect.
  constexpr std::array<std::pair<int, int>, 5> kNamedAndSuspect{
      {{-1, -1}, {2, 2}, {-77, 2}, {3, 2}, {1'000'000'000, 2}}};
  for (const auto& [named, suspect] : kNamedAndSuspect) {
    report.failure_peer = named;
    check_attack(healthy, {.name = "a failure report",
                           .run = sends(report, {}),
                           .kind = ErrorKind::kMismatch,
                           .words = "a lie",
                           .suspect = suspect,
                           .is_violation = false});
  }
  report.failure_peer = 2;
  report.op = std::string(64, '\x80');
  report.text = std::string("\xff\xfe\x00\n\x1b[31m", 9) + std::string(1400, '\xc3');
  check_attack(healthy, {.name = "a report that is not UTF-8",
                         .run = sends(report, {}),
                         .kind = ErrorKind::kMismatch,
                         .is_violation = false});
}

}  // namespace
}  // namespace fastgpu::test
