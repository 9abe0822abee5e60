#include "plan/schedule.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <ranges>

#include "base/error.h"
#include "plan/builders/direct.h"
#include "plan/builders/halving.h"
#include "plan/builders/hierarchical.h"
#include "plan/builders/lane_context.h"
#include "plan/builders/ring.h"
#include "plan/builders/rooted.h"
#include "plan/builders/tree.h"

namespace fastgpu {
namespace {

constexpr Region kNothing{};
constexpr int kMaxWorld = 65535;
constexpr int kMaxLanes = 255;

Region piece_of(const Region& whole, uint64_t begin) {
  if (whole.size_bytes == 0) return whole;  // the side of a step that is not used
  return {whole.buffer, whole.offset_bytes + begin,
          std::min(kMaxFrameBytes, whole.size_bytes - begin)};
}

std::string describe(const Region& region) {
  constexpr std::array<const char*, 3> kNames{"input", "data", "wire"};
  return std::string(kNames[static_cast<std::size_t>(region.buffer)]) + "[" +
         std::to_string(region.offset_bytes) + ", " + std::to_string(region.end_bytes()) + ")";
}

}  // namespace

void LaneBuilder::append(Verb verb, bool reduce, int peer, const Region& source,
                         const Region& target) {
  const uint64_t size_bytes = std::max(source.size_bytes, target.size_bytes);
  for (uint64_t begin = 0; begin < size_bytes; begin += kMaxFrameBytes) {
    uint32_t ordinal = 0;
    if (verb == Verb::kSend) ordinal = sent_[peer]++;
    if (verb == Verb::kRecv) ordinal = received_[peer]++;
    lane_.push_back(
        {verb, reduce, peer, ordinal, 0, piece_of(source, begin), piece_of(target, begin)});
  }
}

void LaneBuilder::send(int peer, const Region& source) {
  append(Verb::kSend, false, peer, source, kNothing);
}
void LaneBuilder::recv(int peer, const Region& target) {
  append(Verb::kRecv, false, peer, kNothing, target);
}
void LaneBuilder::recv_reduce(int peer, const Region& target) {
  append(Verb::kRecv, true, peer, kNothing, target);
}
void LaneBuilder::encode(const Region& source, const Region& target) {
  append(Verb::kEncode, false, -1, source, target);
}
void LaneBuilder::decode(const Region& source, const Region& target) {
  append(Verb::kDecode, false, -1, source, target);
}
void LaneBuilder::decode_reduce(const Region& source, const Region& target) {
  append(Verb::kDecode, true, -1, source, target);
}

void LaneBuilder::send_empty(int peer) {
  lane_.push_back({Verb::kSend, false, peer, sent_[peer]++, 0, kNothing, kNothing});
}
void LaneBuilder::recv_empty(int peer) {
  lane_.push_back({Verb::kRecv, false, peer, received_[peer]++, 0, kNothing, kNothing});
}

// Walks over the lane with the sends out of `data` that may still be read: one that is alone with
// its region until a frame of its peer is stored there has found its answer. A region that is sent
// twice, or read otherwise, has none; one that is written is free again, for no step writes a
// region with a send pending.
void LaneBuilder::find_answers() {
  struct Sent {
    uint64_t end_bytes;
    Step* step;  // nullptr: not alone
  };
  std::map<uint64_t, Sent> sent;  // by offset
  const auto for_each_overlap = [&](const Region& region, auto visit) {
    if (region.buffer != Buffer::kData || region.size_bytes == 0) return;
    auto at = sent.upper_bound(region.offset_bytes);
    if (at != sent.begin()) --at;
    while (at != sent.end() && at->first < region.end_bytes()) {
      at = at->second.end_bytes > region.offset_bytes ? visit(at) : std::next(at);
    }
  };
  for (Step& step : lane_) {
    bool alone = true;
    for_each_overlap(step.source, [&](auto at) {
      alone = false;
      at->second.step = nullptr;
      return std::next(at);
    });
    for_each_overlap(step.target, [&](auto at) {
      Step* const asked = at->second.step;
      if (asked != nullptr && step.verb == Verb::kRecv && !step.reduce &&
          asked->peer == step.peer && asked->source == step.target) {
        asked->answer = step.ordinal + 1;
      }
      return sent.erase(at);
    });
    if (step.verb == Verb::kSend && step.source.buffer == Buffer::kData &&
        step.source.size_bytes > 0) {
      Sent& entry = sent[step.source.offset_bytes];
      entry = {std::max(entry.end_bytes, step.source.end_bytes()), alone ? &step : nullptr};
    }
  }
}

// Walks back over the lane, with the ranges of `data` that later steps touch.
void LaneBuilder::find_last_stores() {
  std::map<uint64_t, uint64_t> touched;  // offset to end; apart from each other
  for (Step& step : std::views::reverse(lane_)) {
    for (const Region* region : {&step.target, &step.source}) {
      if (region->buffer != Buffer::kData || region->size_bytes == 0) continue;
      uint64_t begin = region->offset_bytes;
      uint64_t end = region->end_bytes();
      auto at = touched.lower_bound(begin);
      if (at != touched.begin() && std::prev(at)->second > begin) --at;
      const bool store = region == &step.target && !step.reduce;
      step.last = step.last || (store && (at == touched.end() || at->first >= end));
      while (at != touched.end() && at->first < end) {
        begin = std::min(begin, at->first);
        end = std::max(end, at->second);
        at = touched.erase(at);
      }
      touched[begin] = end;
    }
  }
}

Lane LaneBuilder::finish() {
  find_answers();
  find_last_stores();
  Lane first;
  for (const auto& [peer, frames] : received_) {
    if (!sent_.contains(peer)) {
      first.push_back({Verb::kSend, false, peer, 0, 0, kNothing, kNothing});
    }
  }
  for (const auto& [peer, frames] : sent_) {
    if (!received_.contains(peer)) {
      lane_.push_back({Verb::kRecv, false, peer, 0, 0, kNothing, kNothing});
    }
  }
  lane_.insert(lane_.begin(), first.begin(), first.end());
  return std::move(lane_);
}

std::string describe(const Step& step) {
  const std::string reduce = step.reduce ? "_reduce" : "";
  const std::string peer = "(peer=" + std::to_string(step.peer);
  switch (step.verb) {
    case Verb::kSend:
      return "send" + peer + " <- " + describe(step.source) + ")";
    case Verb::kRecv:
      return "recv" + reduce + peer + " -> " + describe(step.target) + ")";
    case Verb::kEncode:
      return "encode(" + describe(step.source) + " -> " + describe(step.target) + ")";
    case Verb::kDecode:
      break;
  }
  return "decode" + reduce + "(" + describe(step.source) + " -> " + describe(step.target) + ")";
}

namespace {

using Builder = void (*)(LaneContext&);

struct Entry {
  Collective collective;
  Algorithm algorithm;
  Builder builder;
};

// By collective, the default first.
constexpr std::array kBuilders{
    Entry{Collective::kAllReduce, Algorithm::kRing, ring_all_reduce},
    Entry{Collective::kAllReduce, Algorithm::kDirect, direct_all_reduce},
    Entry{Collective::kAllReduce, Algorithm::kTree, tree_all_reduce},
    Entry{Collective::kAllReduce, Algorithm::kHalving, halving_all_reduce},
    Entry{Collective::kAllReduce, Algorithm::kHierarchical, hierarchical_all_reduce},
    Entry{Collective::kReduceScatter, Algorithm::kRing, ring_reduce_scatter},
    Entry{Collective::kReduceScatter, Algorithm::kDirect, direct_reduce_scatter},
    Entry{Collective::kAllGather, Algorithm::kRing, ring_all_gather},
    Entry{Collective::kAllGather, Algorithm::kDirect, direct_all_gather},
    Entry{Collective::kBroadcast, Algorithm::kTree, tree_broadcast},
    Entry{Collective::kBroadcast, Algorithm::kDirect, direct_broadcast},
    Entry{Collective::kBroadcast, Algorithm::kRing, ring_broadcast},
    Entry{Collective::kReduce, Algorithm::kTree, tree_reduce},
    Entry{Collective::kReduce, Algorithm::kDirect, direct_reduce},
    Entry{Collective::kGather, Algorithm::kDirect, direct_gather},
    Entry{Collective::kScatter, Algorithm::kDirect, direct_scatter},
    Entry{Collective::kAllToAll, Algorithm::kDirect, direct_all_to_all},
    Entry{Collective::kBarrier, Algorithm::kDirect, barrier},
};

constexpr auto kAlgorithms = [] {
  std::array<Algorithm, kBuilders.size()> algorithms{};
  for (std::size_t i = 0; i < kBuilders.size(); ++i) algorithms[i] = kBuilders[i].algorithm;
  return algorithms;
}();

[[noreturn]] void refuse(const PlanRequest& request, const std::string& why) {
  raise(ErrorKind::kInvalidArgument, "cannot plan " + std::string(name_of(request.collective)) +
                                         " of " + std::to_string(request.count) +
                                         " elements over " + std::to_string(request.world) +
                                         " ranks: " + why);
}

void check(const PlanRequest& request) {
  const auto in_world = [&](int rank) { return rank >= 0 && rank < request.world; };
  const auto world = static_cast<std::size_t>(request.world);
  if (request.world < 1 || request.world > kMaxWorld) refuse(request, "1 to 65535 ranks are");
  if (!in_world(request.rank)) refuse(request, "rank " + std::to_string(request.rank));
  if (!in_world(request.root)) refuse(request, "root " + std::to_string(request.root));
  if (request.lanes < 1 || request.lanes > kMaxLanes) refuse(request, "1 to 255 lanes are");
  if (request.shots < 0 || request.shots > 2) refuse(request, "1 or 2 shots are, or 0 for either");
  if (request.element_size < 1) refuse(request, "an element has 1 byte or more");
  const uint64_t limit = std::numeric_limits<int64_t>::max() / request.element_size / world;
  if (request.count > limit) refuse(request, "more bytes than memory can hold");
  if (!request.host_of.empty() && request.host_of.size() != world) {
    refuse(request, "host_of names " + std::to_string(request.host_of.size()) + " ranks");
  }
  if (request.send_counts.size() != request.recv_counts.size() ||
      (!request.send_counts.empty() && request.send_counts.size() != world)) {
    refuse(request, "send_counts and recv_counts need an entry for every rank, or none");
  }
}

Builder builder_for(const PlanRequest& request) {
  for (const Entry& entry : kBuilders) {
    if (entry.collective == request.collective && entry.algorithm == request.algorithm) {
      return entry.builder;
    }
  }
  std::string known;
  for (const Algorithm algorithm : algorithms_of(request.collective)) {
    known += (known.empty() ? "" : ", ") + std::string(name_of(algorithm));
  }
  refuse(request, "there is no algorithm '" + std::string(name_of(request.algorithm)) +
                      "' for it; there are: " + known);
}

// What I get without any peer: world 1.
void copy_own(LaneContext& context) {
  const Collective collective = context.request.collective;
  if (collective == Collective::kAllToAll) return direct_all_to_all(context);
  if (collective == Collective::kAllReduce || collective == Collective::kBroadcast) return;
  context.steps.copy(context.input(), context.data());
}

}  // namespace

Schedule build(const PlanRequest& request) {
  check(request);
  Builder builder = builder_for(request);
  if (request.count == 0 && request.collective != Collective::kAllToAll) {
    builder = barrier;
  } else if (request.world == 1 && request.collective != Collective::kBarrier) {
    builder = copy_own;
  }
  Schedule schedule;
  ScratchLayout scratch;
  for (int lane = 0; lane < request.lanes; ++lane) {
    LaneContext context{request, lane, scratch, {}};
    builder(context);
    schedule.lanes.push_back(context.steps.finish());
  }
  schedule.scratch_bytes = scratch.used_bytes();
  schedule.scratch_shared = scratch.shared();
  return schedule;
}

std::span<const Algorithm> algorithms_of(Collective collective) {
  const auto of_collective = [&](const Entry& entry) { return entry.collective == collective; };
  const auto first = std::find_if(kBuilders.begin(), kBuilders.end(), of_collective);
  const auto last = std::find_if_not(first, kBuilders.end(), of_collective);
  return std::span(kAlgorithms)
      .subspan(static_cast<std::size_t>(first - kBuilders.begin()),
               static_cast<std::size_t>(last - first));
}

}  // namespace fastgpu
