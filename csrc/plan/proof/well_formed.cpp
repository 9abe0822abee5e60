#include "plan/proof/well_formed.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>

namespace fastgpu {
namespace {

void require(bool holds, const char* what) {
  if (!holds) throw ProofFailure(what);
}

struct Limits {
  std::array<uint64_t, 3> bytes;  // of each buffer
  uint64_t element_size;
  Codec codec;
  int rank;
  int world;
};

void check_region(const Region& region, const Limits& limits) {
  require(region.end_bytes() >= region.offset_bytes, "a region wraps around the end of memory");
  require(region.end_bytes() <= limits.bytes[static_cast<std::size_t>(region.buffer)],
          "a region reaches beyond its buffer");
  const bool may_be_encoded = limits.codec != Codec::kNone && region.buffer == Buffer::kScratch;
  require(may_be_encoded || region.size_bytes % limits.element_size == 0,
          "a region is not whole elements");
  require(region.buffer == Buffer::kScratch || region.offset_bytes % limits.element_size == 0,
          "a region begins inside an element");
}

void check_step(const Step& step, const Limits& limits) {
  require(!step.completes || step.reduce, "a step completes elements that it does not reduce");
  const bool sends = step.verb == Verb::kSend;
  const bool receives = step.verb == Verb::kRecv;
  if (!receives) check_region(step.source, limits);
  if (!sends) check_region(step.target, limits);
  if (sends || receives) {
    const Region& moved = sends ? step.source : step.target;
    require(step.peer >= 0 && step.peer < limits.world, "the peer is outside the world");
    require(step.peer != limits.rank, "a rank is its own peer");
    require(moved.size_bytes <= kMaxFrameBytes, "a frame is longer than kMaxFrameBytes");
    require(!step.reduce || receives, "a send cannot reduce");
  } else {
    require(step.coding == Coding::kPlain || limits.codec != Codec::kNone,
            "a plain schedule encodes or decodes");
    require(step.source.size_bytes > 0, "a copy is empty");
    if (step.coding == Coding::kAddResidual) {
      require(step.source == step.target && step.target.buffer == Buffer::kData && !step.reduce,
              "a residual is added to other elements than its own");
      return;
    }
    const bool encodes = step.coding == Coding::kEncode;
    const Region& elements = encodes ? step.source : step.target;
    const Region& other = encodes ? step.target : step.source;
    const uint64_t wanted = step.coding == Coding::kPlain
                                ? elements.size_bytes
                                : encoded_bytes(limits.codec, elements.size_bytes / sizeof(float));
    require(other.size_bytes == wanted, "source and target differ in size");
    require(!encodes || !step.reduce, "an encoding cannot reduce");
    require(!overlap(step.source, step.target), "source and target overlap");
  }
  require(sends || step.target.size_bytes == 0 || step.target.buffer != Buffer::kInput,
          "the input is written");
}

void check_lane(int rank, int index, const Lane& lane, const Limits& limits) {
  std::map<std::pair<int, Verb>, uint32_t> counts;  // frames by peer and direction
  for (std::size_t at = 0; at < lane.size(); ++at) {
    const Step& step = lane[at];
    try {
      check_step(step, limits);
      if (step.verb != Verb::kSend && step.verb != Verb::kRecv) continue;
      require(step.ordinal == counts[{step.peer, step.verb}]++, "the frame's ordinal is wrong");
    } catch (const ProofFailure& failure) {
      throw ProofFailure("rank " + std::to_string(rank) + " lane " + std::to_string(index) +
                         " step " + std::to_string(at) + " " + describe(step) + ": " +
                         failure.what());
    }
  }
  for (const auto& [stream, frames] : counts) {
    const Verb other = stream.second == Verb::kSend ? Verb::kRecv : Verb::kSend;
    if (counts.contains({stream.first, other})) continue;
    throw ProofFailure("no handshake: rank " + std::to_string(rank) + " lane " +
                       std::to_string(index) + " exchanges frames with rank " +
                       std::to_string(stream.first) + " one way only");
  }
}

struct Touched {
  Region region;
  int lane;
  bool written;
};

// No lane may touch a region that another lane writes.
void check_lanes_apart(int rank, const Schedule& schedule) {
  std::vector<Touched> touched;
  for (std::size_t lane = 0; lane < schedule.lanes.size(); ++lane) {
    for (const Step& step : schedule.lanes[lane]) {
      const auto index = static_cast<int>(lane);
      if (step.source.size_bytes > 0) touched.push_back({step.source, index, false});
      if (step.target.size_bytes > 0) touched.push_back({step.target, index, true});
    }
  }
  const auto before = [](const Touched& a, const Touched& b) {
    return a.region.buffer != b.region.buffer ? a.region.buffer < b.region.buffer
                                              : a.region.offset_bytes < b.region.offset_bytes;
  };
  std::sort(touched.begin(), touched.end(), before);
  // By lane: the region with the largest end so far.
  struct Reach {
    Region any{};      // read or written
    Region written{};  // written
  };
  std::vector<Reach> reaches(schedule.lanes.size());
  for (const Touched& next : touched) {
    for (int lane = 0; lane < static_cast<int>(reaches.size()); ++lane) {
      const Reach& reach = reaches[static_cast<std::size_t>(lane)];
      if (lane == next.lane || !overlap(next.written ? reach.any : reach.written, next.region)) {
        continue;
      }
      throw ProofFailure("rank " + std::to_string(rank) + ": lanes " + std::to_string(lane) +
                         " and " + std::to_string(next.lane) +
                         " share bytes that one of them writes");
    }
    Reach& mine = reaches[static_cast<std::size_t>(next.lane)];
    const auto extend = [&](Region& region) {
      if (region.buffer != next.region.buffer || region.end_bytes() < next.region.end_bytes()) {
        region = next.region;
      }
    };
    extend(mine.any);
    if (next.written) extend(mine.written);
  }
}

// Error feedback: every rank uses the residual of every element once, when it encodes the element
// or before it does anything else with it.
void check_residuals(int rank, const Schedule& schedule, uint64_t data_bytes) {
  std::vector<Region> used;
  for (const Lane& lane : schedule.lanes) {
    for (auto step = lane.begin(); step != lane.end(); ++step) {
      const bool adds = step->coding == Coding::kAddResidual;
      if (adds || step->coding == Coding::kEncode) used.push_back(step->source);
      const bool is_late =
          adds && std::any_of(lane.begin(), step, [&](const Step& earlier) {
            return overlap(earlier.source, step->source) || overlap(earlier.target, step->source);
          });
      if (!is_late) continue;
      throw ProofFailure("rank " + std::to_string(rank) + " " + describe(*step) +
                         ": another step has used the elements before");
    }
  }
  std::ranges::sort(used, {}, &Region::offset_bytes);
  uint64_t end = 0;
  for (const Region& region : used) {
    if (region.buffer != Buffer::kData || region.offset_bytes != end) break;
    end = region.end_bytes();
  }
  if (end == data_bytes) return;
  throw ProofFailure("rank " + std::to_string(rank) + " uses the residual at byte " +
                     std::to_string(end) + " never, or that before it twice");
}

}  // namespace

void check_well_formed(const Contract& contract, std::span<const Schedule> schedules) {
  const PlanRequest& request = contract.request;
  require(static_cast<int>(schedules.size()) == request.world,
          "the number of schedules is not the number of ranks");
  for (int rank = 0; rank < request.world; ++rank) {
    const Schedule& schedule = schedules[static_cast<std::size_t>(rank)];
    require(static_cast<int>(schedule.lanes.size()) == request.lanes,
            "the number of lanes is not the requested number");
    const Limits limits{
        {contract.input_bytes(rank), contract.data_bytes(rank), schedule.scratch_bytes},
        request.element_size,
        request.codec,
        rank,
        request.world};
    for (int lane = 0; lane < request.lanes; ++lane) {
      check_lane(rank, lane, schedule.lanes[static_cast<std::size_t>(lane)], limits);
    }
    check_lanes_apart(rank, schedule);
    if (request.codec != Codec::kNone && request.world > 1) {
      check_residuals(rank, schedule, contract.data_bytes(rank));
    }
  }
}

}  // namespace fastgpu
