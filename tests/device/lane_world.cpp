#include "lane_world.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>

#include "kernels/cuda/find_reduction.h"
#include "kernels/reduce.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {
namespace {

std::size_t index_of(int rank) { return static_cast<std::size_t>(rank); }

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

RankBuffers make_buffers(const LaneCase& lane_case, const Schedule& schedule, int rank) {
  const PlanRequest& request = lane_case.request;
  const std::size_t bytes = request.count * index_of(request.world) * size_of(lane_case.dtype) + 16;
  const std::size_t shift = shift_of(lane_case, rank);
  RankBuffers buffers;
  for (const std::size_t size : {bytes, bytes, std::size_t{schedule.scratch_bytes} + 16}) {
    buffers.memory.emplace_back(size, shift);
  }
  return buffers;
}

void fill(const LaneCase& lane_case, const RankBuffers& buffers, int rank, int turn) {
  std::mt19937_64 random(lane_case.seed * 1000 + index_of(rank) * 10 + static_cast<uint64_t>(turn));
  for (const Buffer buffer : {Buffer::kInput, Buffer::kData}) {
    buffers.memory[static_cast<std::size_t>(buffer)].fill(random);
  }
}

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

LaneWorld::LaneWorld(simt::Machine& machine, const LaneCase& lane_case,
                     const std::vector<Schedule>& schedules)
    : world_(lane_case.request.world),
      lanes_(schedules.front().lanes.size()),
      factor_(factor_of(lane_case)) {
  for (int rank = 0; rank < world_; ++rank) {
    const Schedule& schedule = schedules[index(rank)];
    tables_.push_back(lane_case.all_counts.empty()
                          ? device::compile(schedules, rank, {.fold = lane_case.fold})
                          : device::compile_all_to_all(schedule, world_));
    if (lane_case.planted.mutate != nullptr) lane_case.planted.mutate(tables_.back());
    ranks_.push_back(make_buffers(lane_case, schedule, rank));
    // Segment 0 is not used by this operation. Buffers begin somewhere inside theirs.
    std::vector<std::byte*> segments{nullptr};
    std::vector<uint64_t> locations;
    for (const DeviceMemory& memory : ranks_.back().memory) {
      const uint64_t offset_bytes = 4096 * (index(rank) + segments.size());
      locations.push_back(segments.size() << device::Location::kSegmentShift | offset_bytes);
      segments.push_back(memory.data() - offset_bytes);
    }
    segments_.push_back(std::move(segments));
    locations_.push_back(std::move(locations));
    mail_.push_back(std::make_unique<device::Mail[]>(lanes_ * index(world_)));
    controls_.push_back(std::make_unique<device::Control>());
    operations_.emplace_back(lanes_, kFirstOperation);
    streams_.push_back(machine.make_stream(rank / lane_case.ranks_per_gpu));
  }
}

device::LaneArgs LaneWorld::args(int rank, uint64_t key) const {
  const std::size_t mine = index(rank);
  device::LaneArgs args{};
  args.group.rank = rank;
  args.group.world = world_;
  args.group.patience = patience_;
  args.group.host_stop = &host_stop_;
  args.entries = tables_[mine].entries.data();
  args.first = tables_[mine].first.data();
  args.key[0] = key;
  args.key[1] = ~key;
  args.factor = factor_;
  args.operation = const_cast<uint64_t*>(operations_[mine].data());
  for (std::size_t buffer = 0; buffer < 3; ++buffer) {
    args.buffers[buffer] = ranks_[mine].memory[buffer].data();
    args.locations[buffer] = locations_[mine][buffer];
  }
  for (std::size_t each = 0; each < index(world_); ++each) {
    args.group.control[each] = controls_[each].get();
    args.segments[each] = segments_[each].data();
    args.mail[each] = mail_[each].get();
  }
  return args;
}

std::string LaneWorld::failure() const {
  constexpr std::array kNames = {"stopped by a peer", "time-out", "mismatch",
                                 "stopped by the host"};
  std::string text;
  for (int rank = 0; rank < world_; ++rank) {
    if (control(rank).stop == 0) continue;
    const auto point = __builtin_bit_cast(device::FailurePoint, control(rank).failure);
    text += "rank " + std::to_string(rank) + ": " + kNames[static_cast<std::size_t>(point.code)] +
            " (peer " + std::to_string(point.peer) + ", entry " + std::to_string(point.entry) +
            ") ";
  }
  return text;
}

namespace {

// The reductions that cases draw: every instance takes time to compile.
struct FindDrawn {
  template <typename Element, typename Op>
  device::LaneKernel operator()() const {
    constexpr bool kSums =
        std::is_same_v<Op, Sum> &&
        (std::is_same_v<Element, Real<float>> || std::is_same_v<Element, Short<BFloat16>> ||
         std::is_same_v<Element, Short<Float16>> || std::is_same_v<Element, Integer<uint64_t>>);
    constexpr bool kOthers = std::is_same_v<Element, Integer<uint8_t>> ||
                             (std::is_same_v<Element, Real<float>> && std::is_same_v<Op, Max>);
    if constexpr (kSums ||
                  (kOthers && !std::is_same_v<Op, BitAnd> && device::kIsCommon<Element, Op>)) {
      return device::run_lanes<Element, Op>;
    } else {
      return nullptr;
    }
  }
};

// Every rank's data after an operation.
using Results = std::vector<std::vector<std::byte>>;

device::LaneKernel kernel_of(const LaneCase& lane_case) {
  if (!reduces(lane_case.request.collective)) {
    return device::find_reduction(DType::kUInt8, ReduceOp::kBor, FindDrawn{});
  }
  return device::find_reduction(lane_case.dtype, lane_case.reduce_op, FindDrawn{});
}

// Fills the buffers, runs the operation and keeps its result, all in stream order. Nothing but the
// kernels keeps one rank's fill from what another rank still reads.
void enqueue(simt::Machine& machine, LaneWorld& world, const LaneCase& lane_case, int turn,
             Results& results) {
  const device::LaneKernel kernel = kernel_of(lane_case);
  const auto lanes = static_cast<unsigned>(lane_case.request.lanes);
  for (int rank = 0; rank < lane_case.request.world; ++rank) {
    simt::Stream* const stream = world.stream(rank);
    const device::LaneArgs args = world.args(rank, 77 + static_cast<uint64_t>(turn));
    machine.call(stream, [&world, &lane_case, rank, turn] {
      fill(lane_case, world.buffers(rank), rank, turn);
    });
    machine.launch(stream, {.blocks = lanes, .threads = lane_case.threads},
                   [kernel, args] { kernel(args); });
    machine.call(stream, [&world, &results, rank] {
      const DeviceMemory& data = world.buffers(rank).memory[1];
      results[index_of(rank)].assign(data.data(), data.data() + data.size_bytes());
    });
    if (!lane_case.planted.operation_is_not_counted) continue;
    machine.call(stream, [&world, rank, lanes] {
      std::fill_n(world.operations(rank), lanes, kFirstOperation);
    });
  }
}

}  // namespace

std::string run_case(const LaneCase& lane_case) {
  constexpr int kTurns = 2;
  const int world_size = lane_case.request.world;
  PlanRequest request = lane_case.request;
  request.host_of = lane_case.host_of;
  const std::vector<Schedule> schedules =
      build_all(request, {.capacity = 0, .seed = 1, .all_counts = lane_case.all_counts});
  simt::Machine machine({.seed = lane_case.seed,
                         .slow_stream = lane_case.slow_stream,
                         .fault = lane_case.planted.machine});
  LaneWorld world(machine, lane_case, schedules);
  std::vector<Results> results(kTurns, Results(index_of(world_size)));
  for (int turn = 0; turn < kTurns; ++turn) {
    enqueue(machine, world, lane_case, turn, results[index_of(turn)]);
  }
  for (int rank = 0; rank < world_size; ++rank) machine.synchronize(world.stream(rank));
  if (const std::string failure = world.failure(); !failure.empty()) {
    return describe(lane_case) + ": " + failure;
  }
  std::vector<RankBuffers> expected;
  for (int rank = 0; rank < world_size; ++rank) {
    expected.push_back(make_buffers(lane_case, schedules[index_of(rank)], rank));
  }
  for (int turn = 0; turn < kTurns; ++turn) {
    for (int rank = 0; rank < world_size; ++rank) {
      fill(lane_case, expected[index_of(rank)], rank, turn);
    }
    play(schedules, lane_case, expected);
    for (int rank = 0; rank < world_size; ++rank) {
      const DeviceMemory& data = expected[index_of(rank)].memory[1];
      const auto& result = results[index_of(turn)][index_of(rank)];
      if (std::memcmp(result.data(), data.data(), data.size_bytes()) == 0) continue;
      return describe(lane_case) + ": rank " + std::to_string(rank) + " differs in operation " +
             std::to_string(turn);
    }
  }
  return "";
}

LaneCase draw_case(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](uint64_t n) { return static_cast<int>(random() % n); };
  LaneCase drawn;
  drawn.seed = seed;
  PlanRequest& request = drawn.request;
  // Every second one is an all_reduce, which has the most algorithms.
  const int collective = below(2 * kCollectiveCount);
  request.collective =
      collective < kCollectiveCount ? static_cast<Collective>(collective) : Collective::kAllReduce;
  const auto algorithms = algorithms_of(request.collective);
  request.algorithm = algorithms[static_cast<std::size_t>(below(algorithms.size()))];
  request.world = 1 + below(device::kMaxRanks);
  request.lanes = 1 + below(2);
  constexpr std::array<uint64_t, 8> kCounts{0, 1, 3, 17, 100, 257, 515, 1025};
  request.count = kCounts[static_cast<std::size_t>(below(kCounts.size()))];
  request.chunk_bytes = uint64_t{256} << below(3);
  request.block_bytes = below(2) == 0 ? 0 : 1024;
  if (request.algorithm == Algorithm::kDirect) {
    const bool shots = request.collective == Collective::kAllReduce ||
                       request.collective == Collective::kBroadcast;
    request.shots = shots ? below(3) : 0;
  }
  request.root = below(static_cast<uint64_t>(request.world));
  if (request.algorithm == Algorithm::kHierarchical || below(4) == 0) {
    drawn.host_of = uneven_hosts(request.world, 1 + below(4), below(3) == 0);
  }
  if (request.collective == Collective::kAllToAll && below(2) == 0) {
    drawn.all_counts = uneven_counts(request.world, request.count);
  }
  constexpr std::array<std::pair<DType, ReduceOp>, 8> kReductions{{
      {DType::kFloat32, ReduceOp::kSum},
      {DType::kBFloat16, ReduceOp::kSum},
      {DType::kFloat16, ReduceOp::kSum},
      {DType::kFloat32, ReduceOp::kMax},
      {DType::kFloat32, ReduceOp::kAvg},
      {DType::kBFloat16, ReduceOp::kAvg},
      {DType::kInt64, ReduceOp::kSum},
      {DType::kInt8, ReduceOp::kBxor},
  }};
  std::tie(drawn.dtype, drawn.reduce_op) =
      kReductions[static_cast<std::size_t>(below(kReductions.size()))];
  request.element_size = static_cast<uint32_t>(size_of(drawn.dtype));
  drawn.alignment = static_cast<Alignment>(below(3));
  drawn.ranks_per_gpu = 1 + below(2);
  drawn.threads = 32u << below(2);
  drawn.slow_stream = below(2) == 0;
  drawn.fold = below(4) != 0;
  return drawn;
}

}  // namespace fastgpu::test
