#include "comm/tuner.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <vector>

#include "base/clock.h"
#include "comm/topology.h"
#include "kernels/reduce.h"
#include "plan/cost.h"

namespace fastgpu {
namespace {

constexpr uint32_t kTag = 0xfa570001;
constexpr int kSmallRounds = 30;
constexpr int kLargeRounds = 5;
constexpr std::size_t kLargeBytes = 1 << 20;
constexpr std::size_t kTextBytes = 1024;

// The shares of a small message's time that are the wire's and, twice, a processor's; and of a
// large one's bytes. Ratios of the defaults, which were measured in detail (bench/model_check.py).
constexpr double kAlphaShare = 0.6;
constexpr double kOverheadShare = 0.2;
constexpr double kCpuShare = 0.8;

double microseconds_since(TimeNs start) { return static_cast<double>(now_ns() - start) / 1000.0; }

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// One message there and one back; the time of both.
double round_trip(Communicator& communicator, int peer, bool first, std::vector<std::byte>& data,
                  std::size_t size_bytes) {
  MessageCall call;
  call.peer = peer;
  call.tag = kTag;
  call.data = data.data();
  call.size_bytes = size_bytes;
  const TimeNs start = now_ns();
  communicator.wait(*(first ? communicator.send(call) : communicator.recv(call)), -1);
  communicator.wait(*(first ? communicator.recv(call) : communicator.send(call)), -1);
  return microseconds_since(start);
}

LinkCosts measure_link(Communicator& communicator, int peer, bool first) {
  std::vector<std::byte> data(kLargeBytes);
  std::vector<double> small;
  std::vector<double> large;
  small.reserve(kSmallRounds);
  large.reserve(kLargeRounds);
  for (int i = 0; i < kSmallRounds; ++i) {
    small.push_back(round_trip(communicator, peer, first, data, 8) / 2);
  }
  for (int i = 0; i < kLargeRounds; ++i) {
    large.push_back(round_trip(communicator, peer, first, data, kLargeBytes) / 2);
  }
  const double latency = median(small);
  const double per_byte = std::max(median(large) - latency, 1.0) / static_cast<double>(kLargeBytes);
  return {.alpha_us = kAlphaShare * latency,
          .beta_us_per_byte = per_byte,
          .overhead_us = kOverheadShare * latency,
          .cpu_us_per_byte = kCpuShare * per_byte};
}

double time_per_byte(const std::function<void()>& pass) {
  std::vector<double> times;
  times.reserve(kLargeRounds);
  for (int i = 0; i < kLargeRounds; ++i) {
    const TimeNs start = now_ns();
    pass();
    times.push_back(microseconds_since(start));
  }
  return median(times) / static_cast<double>(kLargeBytes);
}

void measure_memory(Constants& constants) {
  std::vector<std::byte> from(kLargeBytes);
  std::vector<std::byte> to(kLargeBytes);
  constants.copy_us_per_byte =
      time_per_byte([&] { std::memcpy(to.data(), from.data(), kLargeBytes); });
  const ReduceKernel sum = find_reduce(DType::kFloat32, ReduceOp::kSum);
  const double reduce =
      time_per_byte([&] { sum(to.data(), from.data(), kLargeBytes / sizeof(float)); });
  constants.reduce_us_per_byte = std::max(reduce - constants.copy_us_per_byte, 1e-6);
}

// The first rank beside rank 0 that is, or is not, on its host; kNoRank if there is none.
int partner(std::span<const int> host_of, bool same_host) {
  for (std::size_t rank = 1; rank < host_of.size(); ++rank) {
    if ((host_of[rank] == host_of[0]) == same_host) return static_cast<int>(rank);
  }
  return kNoRank;
}

}  // namespace

std::string measure_constants(Communicator& communicator, std::span<const int> host_of) {
  Constants constants;
  constants.cores_per_host = available_cores();
  for (const bool same_host : {true, false}) {
    const int other = partner(host_of, same_host);
    const bool first = communicator.rank() == 0;
    if (other == kNoRank || (!first && communicator.rank() != other)) continue;
    LinkCosts& link = same_host ? constants.same_host : constants.between_hosts;
    link = measure_link(communicator, first ? other : 0, first);
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
