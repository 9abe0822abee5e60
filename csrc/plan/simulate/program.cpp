#include "plan/simulate/program.h"

namespace fastgpu::simulated {
namespace {

struct Hash {
  std::size_t operator()(const CompactStep& step) const {
    const uint64_t kind = static_cast<uint64_t>(step.verb) << 1 | (step.reduce ? 1 : 0);
    const uint64_t mixed = (step.size_bytes << 3 | kind) * 0x9e3779b97f4a7c15u + step.channel;
    return static_cast<std::size_t>(mixed ^ mixed >> 29);
  }
};

// Ranks are below 2^24 and lanes below 2^16; build() allows fewer of both.
uint64_t key_of(int from, int to, uint32_t lane) {
  return static_cast<uint64_t>(from) << 40 | static_cast<uint64_t>(to) << 16 | lane;
}

}  // namespace

void Program::add(int rank, const Schedule& schedule) {
  for (uint32_t lane = 0; lane < schedule.lanes.size(); ++lane) {
    lanes_.push_back(compact(rank, lane, schedule.lanes[lane]));
  }
}

CompactLane Program::compact(int rank, uint32_t lane, const Lane& steps) {
  CompactLane result{.rank = rank, .distinct = {}, .order = {}};
  result.order.reserve(steps.size());
  std::unordered_map<CompactStep, uint32_t, Hash> indices;
  for (const Step& step : steps) {
    CompactStep compacted{.verb = step.verb,
                          .reduce = step.reduce,
                          .size_bytes = step.verb == Verb::kCopy   ? copied_bytes(step)
                                        : step.verb == Verb::kRecv ? step.target.size_bytes
                                                                   : step.source.size_bytes};
    if (step.verb == Verb::kSend) compacted.channel = channel(rank, step.peer, lane);
    if (step.verb == Verb::kRecv) compacted.channel = channel(step.peer, rank, lane);
    const auto [at, added] =
        indices.try_emplace(compacted, static_cast<uint32_t>(result.distinct.size()));
    if (added) result.distinct.push_back(compacted);
    result.order.push_back(at->second);
  }
  return result;
}

uint32_t Program::channel(int from, int to, uint32_t lane) {
  const auto [at, added] =
      channel_numbers_.try_emplace(key_of(from, to, lane), static_cast<uint32_t>(channels_.size()));
  if (added) channels_.push_back({from, to});
  return at->second;
}

}  // namespace fastgpu::simulated
