#include "lane_case.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>

#include "engine/device/table.h"
#include "kernels/reduce.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {

// Buffers lie at other places of their segment on every rank, and may be aligned differently.
std::size_t shift_of(const LaneCase& lane_case, int rank) {
  const std::size_t element = size_of(lane_case.dtype);
  switch (lane_case.alignment) {
    case Alignment::kAligned:
      return 0;
    case Alignment::kShifted:
      return element;
    case Alignment::kByRank:
      return index_of(rank) % 3 * element;
  }
  return 0;
}

std::array<std::size_t, 3> buffer_bytes(const LaneCase& lane_case, const Schedule& schedule) {
  const PlanRequest& request = lane_case.request;
  const std::size_t bytes = request.count * index_of(request.world) * size_of(lane_case.dtype) + 16;
  return {bytes, bytes, std::size_t{schedule.scratch_bytes} + 16};
}

RankBuffers make_buffers(const LaneCase& lane_case, const Schedule& schedule, int rank) {
  RankBuffers buffers;
  for (const std::size_t size : buffer_bytes(lane_case, schedule)) {
    buffers.memory.emplace_back(size, shift_of(lane_case, rank));
  }
  return buffers;
}

void fill(const LaneCase& lane_case, const RankBuffers& buffers, int rank, int turn) {
  std::mt19937_64 random(lane_case.seed * 1000 + index_of(rank) * 10 + static_cast<uint64_t>(turn));
  for (const Buffer buffer : {Buffer::kInput, Buffer::kData}) {
    buffers.memory[static_cast<std::size_t>(buffer)].fill(random);
  }
}

namespace {

// Kernels take aligned memory, but a payload may lie anywhere.
void combine(const Region& region, std::byte* target, const std::byte* source,
             const LaneCase& lane_case, double factor) {
  const std::size_t size_bytes = region.size_bytes;
  DeviceMemory left(size_bytes);
  DeviceMemory right(size_bytes);
  std::memcpy(left.data(), target, size_bytes);
  std::memcpy(right.data(), source, size_bytes);
  const std::size_t count = size_bytes / size_of(lane_case.dtype);
  find_reduce(lane_case.dtype, lane_case.reduce_op)(left.data(), right.data(), count);
  if (factor != 1) scale(left.data(), count, lane_case.dtype, factor);
  std::memcpy(target, left.data(), size_bytes);
}

}  // namespace

std::string describe(const LaneCase& lane_case) {
  const PlanRequest& request = lane_case.request;
  return std::string(name_of(request.collective)) + " " + std::string(name_of(request.algorithm)) +
         ", world " + std::to_string(request.world) + ", count " + std::to_string(request.count) +
         ", " + std::string(name_of(lane_case.dtype)) + " " +
         std::string(name_of(lane_case.reduce_op)) + ", lanes " + std::to_string(request.lanes) +
         ", shots " + std::to_string(request.shots) + ", seed " + std::to_string(lane_case.seed);
}

double factor_of(const LaneCase& lane_case) {
  return lane_case.reduce_op == ReduceOp::kAvg ? 1.0 / lane_case.request.world : 1;
}

void play(const std::vector<Schedule>& schedules, const LaneCase& lane_case,
          std::vector<RankBuffers>& ranks) {
  const std::size_t world = schedules.size();
  const std::size_t lanes = schedules.front().lanes.size();
  std::vector<std::size_t> next(world * lanes);
  std::map<std::array<std::size_t, 3>, std::deque<std::vector<std::byte>>> channels;
  const auto take = [&](std::size_t rank, const Step& step, const std::byte* source) {
    std::byte* const target = ranks[rank].at(step.target);
    if (step.reduce) {
      const double factor = step.completes ? factor_of(lane_case) : 1;
      combine(step.target, target, source, lane_case, factor);
    } else if (step.target.size_bytes != 0) {
      std::memmove(target, source, step.target.size_bytes);
    }
  };
  const auto run = [&](std::size_t rank, std::size_t lane) {
    const Lane& steps = schedules[rank].lanes[lane];
    bool moved = false;
    for (std::size_t& i = next[rank * lanes + lane]; i < steps.size(); ++i, moved = true) {
      const Step& step = steps[i];
      const std::size_t peer = step.verb == Verb::kCopy ? 0 : index_of(step.peer);
      if (step.verb == Verb::kSend) {
        const std::byte* const from = ranks[rank].at(step.source);
        channels[{rank, peer, lane}].emplace_back(from, from + step.source.size_bytes);
      } else if (step.verb == Verb::kCopy) {
        take(rank, step, ranks[rank].at(step.source));
      } else {
        auto& channel = channels[{peer, rank, lane}];
        if (channel.empty()) return moved;
        take(rank, step, channel.front().data());
        channel.pop_front();
      }
    }
    return moved;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t i = 0; i < world * lanes; ++i) moved |= run(i / lanes, i % lanes);
  }
}

std::vector<Results> play_turns(const std::vector<Schedule>& schedules, const LaneCase& lane_case,
                                int turns) {
  std::vector<RankBuffers> ranks;
  for (std::size_t rank = 0; rank < schedules.size(); ++rank) {
    ranks.push_back(make_buffers(lane_case, schedules[rank], static_cast<int>(rank)));
  }
  std::vector<Results> all;
  for (int turn = 0; turn < turns; ++turn) {
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      fill(lane_case, ranks[rank], static_cast<int>(rank), turn);
    }
    play(schedules, lane_case, ranks);
    Results results;
    for (const RankBuffers& buffers : ranks) {
      const DeviceMemory& data = buffers.memory[1];
      results.emplace_back(data.data(), data.data() + data.size_bytes());
    }
    all.push_back(std::move(results));
  }
  return all;
}

std::string difference(const LaneCase& lane_case, const std::vector<Results>& found,
                       const std::vector<Results>& expected) {
  for (std::size_t turn = 0; turn < expected.size(); ++turn) {
    for (std::size_t rank = 0; rank < expected[turn].size(); ++rank) {
      const auto& right = expected[turn][rank];
      const auto& mine = found[turn][rank];
      if (mine == right) continue;
      return describe(lane_case) + ": rank " + std::to_string(rank) + " differs in operation " +
             std::to_string(turn) + ", " +
             first_difference(mine.data(), right.data(), right.size());
    }
  }
  return "";
}

std::string failures_of(std::span<const device::Control> controls) {
  constexpr std::array kNames = {"stopped by a peer", "time-out", "mismatch", "stopped by the host",
                                 "departed peer"};
  std::string text;
  for (std::size_t rank = 0; rank < controls.size(); ++rank) {
    if (controls[rank].stop == 0) continue;
    const auto point = __builtin_bit_cast(device::FailurePoint, controls[rank].failure);
    text += "rank " + std::to_string(rank) + ": " + kNames[static_cast<std::size_t>(point.code)] +
            " (peer " + std::to_string(point.peer) + ", entry " + std::to_string(point.entry) +
            ") ";
  }
  return text;
}

LaneCase draw_case(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](uint64_t n) { return static_cast<int>(random() % n); };
  LaneCase drawn;
  static_cast<CallCase&>(drawn) = draw_call(random, device::kMaxRanks);
  drawn.seed = seed;
  drawn.alignment = static_cast<Alignment>(below(3));
  drawn.ranks_per_gpu = 1 + below(2);
  drawn.threads = 32u << below(2);
  drawn.slow_stream = below(2) == 0;
  drawn.fold = below(4) != 0;
  return drawn;
}

LaneCase case_of(Collective collective, Algorithm algorithm, int world, uint64_t number) {
  LaneCase drawn = draw_case(number);
  drawn.request = request_of(collective, algorithm, world, number % 3 == 0 ? 203 : 61);
  drawn.request.lanes = 1 + static_cast<int>(number % 2);
  drawn.request.chunk_bytes = 128;
  drawn.request.root = world - 1;
  drawn.request.element_size = static_cast<uint32_t>(size_of(drawn.dtype));
  drawn.host_of = uneven_hosts(world, 3, number % 2 == 0);
  drawn.all_counts.clear();
  drawn.threads = 32;
  return drawn;
}

}  // namespace fastgpu::test
