#include "comm/tuner.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "comm/topology.h"
#include "kernels/reduce.h"
#include "plan/cost.h"

namespace fastgpu {
namespace {

constexpr uint32_t kTag = 0xfa570001;
constexpr std::size_t kLargeBytes = 1 << 20;
constexpr std::size_t kTextBytes = 1024;

// A machine that does other things as well makes single times mean nothing: over shared memory a
// hop takes 0.3 us while both ranks run, and 6 or 35 while they take turns on a core. What the
// links and memory can do is the least of many times, taken in short rounds. Between those the
// ranks sleep: who wakes is put on an idle core, who spins may be left beside its peer. The limits
// keep set-up short where even that takes long.
constexpr int kRounds = 4;
constexpr auto kPause = std::chrono::milliseconds(1);
constexpr int kSmallTrips = 24;
constexpr int kBurstTrips = 8;
constexpr int kLargeTrips = 3;
constexpr TimeNs kSmallLimit = 400 * kMicrosecond;
constexpr TimeNs kLargeLimit = kMillisecond;

// A large message is offered and granted before it moves: that many hops that are not its bytes'.
constexpr double kHopsOfLarge = 3;

// The share of a large message's time that is a processor's, at either end: a ratio of the
// defaults, which were measured in detail (bench/model_check.py).
constexpr double kCpuShare = 0.8;

// Small messages one way at once: what one more takes is what it costs a processor.
constexpr int kBurst = 9;

// What is not believed: between these the truth lies on any machine. Above, something else ran all
// the time; a wrong constant of the right order still chooses well.
struct Plausible {
  double least;
  double most;
  double clamp(double value) const { return std::clamp(value, least, most); }
};
struct PlausibleLink {
  Plausible hop_us;
  Plausible byte_us;
  Plausible overhead_share;  // of a hop, the processor's at either end
};
// Over shared memory half a message's time goes into matching it, which a frame needs not: there
// the share is that of the defaults.
constexpr PlausibleLink kShared{{0.05, 1}, {5e-6, 1e-3}, {0.2, 0.2}};
constexpr PlausibleLink kNetwork{{1, 1e6}, {1e-5, 1}, {0.1, 0.5}};
constexpr Plausible kMemoryByteUs{2e-6, 1e-3};
constexpr Plausible kReduceByteUs{1e-7, 1e-3};

double microseconds_since(TimeNs start) { return static_cast<double>(now_ns() - start) / 1000.0; }

// Messages there and back between two ranks; `first` says in each trip whether another follows.
class Trips {
 public:
  Trips(Communicator& communicator, int peer, bool first)
      : communicator_(communicator), peer_(peer), first_(first), data_(kLargeBytes) {}

  // What is sent in a trip: so many messages there, and one back.
  struct Load {
    std::size_t size_bytes;
    int messages;
  };

  // The least time of a trip, of at most `most`, begun before the limit.
  double least_us(const Load& load, int most, TimeNs limit) {
    double least = std::numeric_limits<double>::infinity();
    const TimeNs begin = now_ns();
    for (int trip = 1;; ++trip) {
      if (first_) data_[0] = std::byte(trip < most && now_ns() - begin < limit ? 1 : 0);
      const TimeNs start = now_ns();
      for (int message = 0; message < load.messages; ++message) move(first_, load.size_bytes);
      move(!first_, load.size_bytes);
      least = std::min(least, microseconds_since(start));
      if (data_[0] == std::byte{0}) return least;
    }
  }

 private:
  void move(bool send, std::size_t size_bytes) {
    MessageCall call;
    call.peer = peer_;
    call.tag = kTag;
    call.data = data_.data();
    call.size_bytes = size_bytes;
    communicator_.wait(*(send ? communicator_.send(call) : communicator_.recv(call)), -1);
  }

  Communicator& communicator_;
  const int peer_;
  const bool first_;
  std::vector<std::byte> data_;
};

LinkCosts measure_link(Trips trips, const PlausibleLink& plausible) {
  const bool bursts = plausible.overhead_share.least < plausible.overhead_share.most;
  double small = std::numeric_limits<double>::infinity();
  double burst = small;
  double large = small;
  for (int round = 0; round < kRounds; ++round) {
    if (round > 0) std::this_thread::sleep_for(kPause);
    small = std::min(small, trips.least_us({8, 1}, kSmallTrips, kSmallLimit));
    if (bursts) burst = std::min(burst, trips.least_us({8, kBurst}, kBurstTrips, kSmallLimit));
    large = std::min(large, trips.least_us({kLargeBytes, 1}, kLargeTrips, kLargeLimit));
  }
  const double hop = plausible.hop_us.clamp(small / 2);
  const double per_byte =
      plausible.byte_us.clamp((large / 2 - kHopsOfLarge * hop) / static_cast<double>(kLargeBytes));
  const double share = plausible.overhead_share.clamp((burst - small) / (kBurst - 1) / hop);
  return {.alpha_us = (1 - 2 * share) * hop,
          .beta_us_per_byte = per_byte,
          .overhead_us = share * hop,
          .cpu_us_per_byte = kCpuShare * per_byte};
}

double time_per_byte(const std::function<void()>& pass) {
  double least = std::numeric_limits<double>::infinity();
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
  const double copy = time_per_byte([&] { std::memcpy(to.data(), from.data(), kLargeBytes); });
  const ReduceKernel sum = find_reduce(DType::kFloat32, ReduceOp::kSum);
  const double reduce =
      time_per_byte([&] { sum(to.data(), from.data(), kLargeBytes / sizeof(float)); });
  constants.copy_us_per_byte = kMemoryByteUs.clamp(copy);
  constants.reduce_us_per_byte = kReduceByteUs.clamp(reduce - copy);
}

// The first rank beside rank 0 that is, or is not, on its host; kNoRank if there is none.
int partner(std::span<const int> host_of, bool same_host) {
  for (std::size_t rank = 1; rank < host_of.size(); ++rank) {
    if ((host_of[rank] == host_of[0]) == same_host) return static_cast<int>(rank);
  }
  return kNoRank;
}

}  // namespace

std::string measure_constants(Communicator& communicator, const Topology& topology) {
  const std::span<const int> host_of = topology.host_of;
  Constants constants;
  constants.cores_per_host = topology.cores_on_machine;
  for (const bool same_host : {true, false}) {
    const int other = partner(host_of, same_host);
    const bool first = communicator.rank() == 0;
    if (other == kNoRank || (!first && communicator.rank() != other)) continue;
    LinkCosts& link = same_host ? constants.same_host : constants.between_hosts;
    Trips trips(communicator, first ? other : 0, first);
    link = measure_link(std::move(trips), same_host ? kShared : kNetwork);
    if (!same_host) constants.nic_us_per_byte = link.beta_us_per_byte;
  }
  if (communicator.rank() == 0) measure_memory(constants);
  std::array<char, kTextBytes> text{};
  const std::string mine = to_text(constants);
  std::memcpy(text.data(), mine.data(), std::min(mine.size(), text.size() - 1));
  CollectiveCall call;
  call.collective = Collective::kBroadcast;
  call.root = 0;
  call.count = text.size();
  call.data = reinterpret_cast<std::byte*>(text.data());
  communicator.wait(*communicator.run(call), -1);
  return text.data();
}

}  // namespace fastgpu
