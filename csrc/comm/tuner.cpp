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
constexpr int kLargeTrips = 3;
constexpr TimeNs kSmallLimit = 400 * kMicrosecond;
constexpr TimeNs kLargeLimit = kMillisecond;
constexpr int kCrowdedCalls = 12;

// A large message is offered and granted before it moves: that many hops that are not its bytes'.
constexpr double kHopsOfLarge = 3;

// The shares of a small message's time that are the wire's and, twice, a processor's; and of a
// large one's bytes. Ratios of the defaults, which were measured in detail (bench/model_check.py).
constexpr double kAlphaShare = 0.6;
constexpr double kOverheadShare = 0.2;
constexpr double kCpuShare = 0.8;

// What is not believed: between these the truth lies on any machine. Above, something else ran all
// the time; a wrong constant of the right order still chooses well.
struct Plausible {
  double least;
  double most;
  double clamp(double value) const { return std::clamp(value, least, most); }
};
constexpr Plausible kSharedHopUs{0.05, 1};
constexpr Plausible kSharedByteUs{5e-6, 1e-3};
constexpr Plausible kNetworkHopUs{1, 1e6};
constexpr Plausible kNetworkByteUs{1e-5, 1};
constexpr Plausible kMemoryByteUs{2e-6, 1e-3};
constexpr Plausible kReduceByteUs{1e-7, 1e-3};
constexpr Plausible kSwitchUs{0.1, 50};

double microseconds_since(TimeNs start) { return static_cast<double>(now_ns() - start) / 1000.0; }

// Messages there and back between two ranks; `first` says in each whether another one follows.
class Trips {
 public:
  Trips(Communicator& communicator, int peer, bool first)
      : communicator_(communicator), peer_(peer), first_(first), data_(kLargeBytes) {}

  // The least time of one way, of at most `most` trips, begun before the limit.
  double least_us(std::size_t size_bytes, int most, TimeNs limit) {
    double least = std::numeric_limits<double>::infinity();
    const TimeNs begin = now_ns();
    for (int trip = 1;; ++trip) {
      if (first_) data_[0] = std::byte(trip < most && now_ns() - begin < limit ? 1 : 0);
      const TimeNs start = now_ns();
      move(first_, size_bytes);
      move(!first_, size_bytes);
      least = std::min(least, microseconds_since(start) / 2);
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

LinkCosts measure_link(Trips trips, const Plausible& hop_us, const Plausible& byte_us) {
  double small = std::numeric_limits<double>::infinity();
  double large = small;
  for (int round = 0; round < kRounds; ++round) {
    if (round > 0) std::this_thread::sleep_for(kPause);
    small = std::min(small, trips.least_us(8, kSmallTrips, kSmallLimit));
    large = std::min(large, trips.least_us(kLargeBytes, kLargeTrips, kLargeLimit));
  }
  const double hop = hop_us.clamp(small);
  const double per_byte =
      byte_us.clamp((large - kHopsOfLarge * hop) / static_cast<double>(kLargeBytes));
  return {.alpha_us = kAlphaShare * hop,
          .beta_us_per_byte = per_byte,
          .overhead_us = kOverheadShare * hop,
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

// What it takes to let all ranks of a crowded machine in: a small all-reduce, less what it would
// take if each had a core. All ranks call, as only rank 0's view of what is crowded counts.
void measure_turns(Communicator& communicator, const Placement& placement, Constants& constants) {
  float value = 0;
  CollectiveCall call;
  call.collective = Collective::kAllReduce;
  call.dtype = DType::kFloat32;
  call.count = 1;
  call.data = reinterpret_cast<std::byte*>(&value);
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kCrowdedCalls; ++i) {
    const TimeNs start = now_ns();
    communicator.wait(*communicator.run(call), -1);
    least = std::min(least, microseconds_since(start));
  }
  const double crowding = 1.0 * placement.most_per_machine / constants.cores_per_host;
  if (crowding <= 1) return;
  constants.switch_us = 0;
  PriceRequest price;
  price.algorithm = Algorithm::kDirect;
  price.bytes = sizeof(value);
  price.shots = 1;
  price.placement = placement;
  constants.switch_us = kSwitchUs.clamp((least - predict_us(price, constants)) / crowding);
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
    link = same_host ? measure_link(std::move(trips), kSharedHopUs, kSharedByteUs)
                     : measure_link(std::move(trips), kNetworkHopUs, kNetworkByteUs);
    if (!same_host) constants.nic_us_per_byte = link.beta_us_per_byte;
  }
  if (communicator.rank() == 0) measure_memory(constants);
  Placement placement = placement_of(static_cast<int>(host_of.size()), host_of);
  placement.most_per_machine = topology.most_on_machine;
  measure_turns(communicator, placement, constants);
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
