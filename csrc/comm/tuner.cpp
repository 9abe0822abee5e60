#include "comm/tuner.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "comm/topology.h"
#include "kernels/reduce.h"
#include "plan/cost/constants.h"

namespace fastgpu {
namespace {

constexpr uint32_t kTag = 0xfa570001;
constexpr std::size_t kSmallBytes = 8;
constexpr std::size_t kLargeBytes = 1 << 20;
constexpr std::size_t kTextBytes = 1024;

// A single time means nothing on a machine that does other work: a hop over shared memory takes
// 0.3 us while both ranks run, and 6 to 35 us while they take turns on a core. The least of many
// times shows what the hardware can do. The ranks take these times in short rounds and sleep in
// between, because the kernel places a thread that wakes on an idle core, but may leave a thread
// that spins on the core of its peer. The time limits keep set-up short on a slow link.
constexpr int kRounds = 4;
constexpr auto kPause = std::chrono::milliseconds(1);
constexpr TimeNs kSmallLimit = 400 * kMicrosecond;
constexpr TimeNs kLargeLimit = kMillisecond;

// A large message takes three hops: RTS, CTS, and the data. The rest of its time grows with its
// size.
constexpr double kHopsOfLarge = 3;

// The messages of a burst. Every further message adds the processor time of a message.
constexpr int kBurst = 9;

// The share of a large message's time that keeps a processor busy, at each end. This is the ratio
// of the default constants, which were measured in detail (bench/model_check.py).
constexpr double kCpuShare = 0.8;

// Results outside these bounds are not plausible on any machine: other work disturbed every round.
// A constant that is wrong, but of the right order, still leads to a good choice.
struct Bounds {
  double least;
  double most;
  double clamp(double value) const { return std::clamp(value, least, most); }
};
struct LinkBounds {
  Bounds hop_us;
  Bounds us_per_byte;
  Bounds overhead_share;  // the part of a hop that keeps a processor busy, at each end
};
// Over shared memory half of a message's time is tag matching, which collectives do not need. So
// a burst would mislead there, and the share is that of the default constants.
constexpr LinkBounds kSharedMemory{{0.05, 1}, {5e-6, 1e-3}, {0.2, 0.2}};
constexpr LinkBounds kNetwork{{1, 1e6}, {1e-5, 1}, {0.1, 0.5}};
constexpr Bounds kCopyUsPerByte{2e-6, 1e-3};
constexpr Bounds kReduceUsPerByte{1e-7, 1e-3};

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double microseconds_since(TimeNs start) { return static_cast<double>(now_ns() - start) / 1000.0; }

// A round trip: `messages` messages from rank 0 to its partner, then one back, all of one size.
struct Trip {
  std::size_t size_bytes;
  int messages;
  int most;      // trips in a round
  TimeNs limit;  // no trip of a round starts later than this
};
constexpr Trip kSmall{kSmallBytes, 1, 24, kSmallLimit};
constexpr Trip kSmallBurst{kSmallBytes, kBurst, 8, kSmallLimit};
constexpr Trip kLarge{kLargeBytes, 1, 3, kLargeLimit};

// One end of the round trips between rank 0 and its partner. Both ends run the same rounds; rank 0
// decides after each trip whether another one follows, and says so in the first byte it sends.
class RoundTrips {
 public:
  RoundTrips(Communicator& communicator, int peer)
      : communicator_(communicator),
        peer_(peer),
        leads_(communicator.rank() == 0),
        data_(kLargeBytes) {}

  // The least time of a trip in one round.
  double least_us(const Trip& trip) {
    double least = kInfinity;
    const TimeNs begin = now_ns();
    for (int done = 1;; ++done) {
      const bool more = done < trip.most && now_ns() - begin < trip.limit;
      if (leads_) data_[0] = std::byte{more};
      const TimeNs start = now_ns();
      for (int i = 0; i < trip.messages; ++i) leads_ ? send(trip) : receive(trip);
      leads_ ? receive(trip) : send(trip);
      least = std::min(least, microseconds_since(start));
      if (data_[0] == std::byte{0}) return least;
    }
  }

 private:
  void send(const Trip& trip) { communicator_.wait(*communicator_.send(message(trip)), -1); }
  void receive(const Trip& trip) { communicator_.wait(*communicator_.recv(message(trip)), -1); }

  MessageCall message(const Trip& trip) {
    MessageCall call;
    call.peer = peer_;
    call.tag = kTag;
    call.data = data_.data();
    call.size_bytes = trip.size_bytes;
    return call;
  }

  Communicator& communicator_;
  const int peer_;
  const bool leads_;
  std::vector<std::byte> data_;
};

// hop = small / 2; us_per_byte = (large / 2 - hops) / bytes; overhead = (burst - small) per
// message.
LinkCosts measure_link(RoundTrips trips, const LinkBounds& bounds) {
  const bool measures_overhead = bounds.overhead_share.least < bounds.overhead_share.most;
  double small = kInfinity;
  double burst = kInfinity;
  double large = kInfinity;
  for (int round = 0; round < kRounds; ++round) {
    if (round > 0) std::this_thread::sleep_for(kPause);
    small = std::min(small, trips.least_us(kSmall));
    if (measures_overhead) burst = std::min(burst, trips.least_us(kSmallBurst));
    large = std::min(large, trips.least_us(kLarge));
  }
  const double hop = bounds.hop_us.clamp(small / 2);
  const double per_byte =
      bounds.us_per_byte.clamp((large / 2 - kHopsOfLarge * hop) / static_cast<double>(kLargeBytes));
  const double share = bounds.overhead_share.clamp((burst - small) / (kBurst - 1) / hop);
  return {.alpha_us = (1 - 2 * share) * hop,
          .beta_us_per_byte = per_byte,
          .overhead_us = share * hop,
          .cpu_us_per_byte = kCpuShare * per_byte};
}

// The least time of a pass over kLargeBytes, per byte.
double us_per_byte(const std::function<void()>& pass) {
  double least = kInfinity;
  for (int i = 0; i < kRounds; ++i) {
    const TimeNs start = now_ns();
    pass();
    least = std::min(least, microseconds_since(start));
  }
  return least / static_cast<double>(kLargeBytes);
}

void measure_memory(Constants& constants) {
  std::vector<std::byte> from(kLargeBytes);
  std::vector<std::byte> to(kLargeBytes);
  const double copy = us_per_byte([&] { std::memcpy(to.data(), from.data(), kLargeBytes); });
  const ReduceKernel sum = find_reduce(DType::kFloat32, ReduceOp::kSum);
  const double reduce =
      us_per_byte([&] { sum(to.data(), from.data(), kLargeBytes / sizeof(float)); });
  constants.copy_us_per_byte = kCopyUsPerByte.clamp(copy);
  constants.reduce_us_per_byte = kReduceUsPerByte.clamp(reduce - copy);
}

// The partner of rank 0: the lowest other rank on its host or, if not `same_host`, on another host.
// kNoRank if there is no such rank.
int partner_of_rank_0(std::span<const int> host_of, bool same_host) {
  for (std::size_t rank = 1; rank < host_of.size(); ++rank) {
    if ((host_of[rank] == host_of[0]) == same_host) return static_cast<int>(rank);
  }
  return kNoRank;
}

// Gives every rank rank 0's text.
std::string broadcast(Communicator& communicator, const std::string& mine) {
  std::array<char, kTextBytes> text{};
  std::memcpy(text.data(), mine.data(), std::min(mine.size(), text.size() - 1));
  CollectiveCall call;
  call.shape.collective = Collective::kBroadcast;
  call.shape.root = 0;
  call.shape.count = text.size();
  call.data = reinterpret_cast<std::byte*>(text.data());
  communicator.wait(*communicator.run(call), -1);
  return text.data();
}

}  // namespace

std::string measure_constants(Communicator& communicator, const Topology& topology) {
  Constants constants;
  constants.cores_per_host = topology.cores_on_machine;
  const int rank = communicator.rank();
  for (const bool same_host : {true, false}) {
    const int partner = partner_of_rank_0(topology.host_of, same_host);
    if (partner == kNoRank || (rank != 0 && rank != partner)) continue;
    const LinkCosts link = measure_link(RoundTrips(communicator, rank == 0 ? partner : 0),
                                        same_host ? kSharedMemory : kNetwork);
    (same_host ? constants.same_host : constants.between_hosts) = link;
    if (!same_host) constants.nic_us_per_byte = link.beta_us_per_byte;
  }
  if (rank == 0) measure_memory(constants);
  return broadcast(communicator, to_text(constants));
}

}  // namespace fastgpu
