#include "lane_world.h"

#include <algorithm>
#include <array>

#include "drawn_reductions.h"
#include "kernels/cuda/find_reduction.h"

namespace fastgpu::test {
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
  args.group.host_word = &host_word_;
  args.group.ended = &ended_;
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
  std::vector<device::Control> controls;
  for (const auto& control : controls_) controls.push_back(*control);
  return failures_of(controls);
}

namespace {

struct FindDrawn {
  template <typename Element, typename Op>
  device::LaneKernel operator()() const {
    if constexpr (kIsDrawn<Element, Op>) {
      return device::run_lanes<Element, Op>;
    } else {
      return nullptr;
    }
  }
};

device::LaneKernel kernel_of(const LaneCase& lane_case) {
  if (!reduces(lane_case.request.collective)) {
    return device::find_reduction(DType::kUInt8, ReduceOp::kBor, FindDrawn{});
  }
  return device::find_reduction(lane_case.dtype, lane_case.reduce_op, FindDrawn{});
}

// Fills the buffers, runs the operation and keeps its result, all in stream order. Ranks share no
// stream, so only the kernels prevent a fill of memory that another rank still reads.
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
  const std::vector<Schedule> schedules = schedules_of(lane_case);
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
  return difference(lane_case, results, play_turns(schedules, lane_case, kTurns));
}

}  // namespace fastgpu::test
