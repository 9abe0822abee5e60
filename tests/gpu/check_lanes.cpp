// Lanes and small all_reduces, with all ranks in one cooperative launch.
#include "checks.h"
#include "gpu_lanes.h"
#include "ranks.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {
namespace {

constexpr int kTurns = 2;

std::string run_lanes_case(const LaneCase& lane_case) {
  const std::vector<Schedule> schedules = schedules_of(lane_case);
  GpuLanes lanes(lane_case, schedules, buffer_bytes(lane_case, schedules.front()));
  const void* const kernel = reduces(lane_case.request.collective)
                                 ? lane_ranks_kernel(lane_case.dtype, lane_case.reduce_op)
                                 : copy_ranks_kernel();
  const std::vector<int> ranks = all_ranks(lane_case.request.world);
  const RankGrid grid{static_cast<unsigned>(ranks.size()), lanes.lanes(), lane_case.threads};
  std::vector<Results> results;
  for (int turn = 0; turn < kTurns; ++turn) {
    lanes.fill(turn);
    const GpuMemory args = lanes.args_of(ranks, 77 + static_cast<uint64_t>(turn));
    launch_ranks(kernel, args, grid);
    results.push_back(lanes.results());
  }
  if (const std::string failure = failures_of(lanes.group().controls()); !failure.empty()) {
    return describe(lane_case) + ": " + failure;
  }
  return difference(lane_case, results, play_turns(schedules, lane_case, kTurns));
}

std::string run_both_folds(LaneCase lane_case) {
  for (const bool fold : {true, false}) {
    lane_case.fold = fold;
    const std::string wrong = run_lanes_case(lane_case);
    if (!wrong.empty()) return (fold ? "folded " : "not folded ") + wrong;
  }
  return "";
}

// Kernels of 512 threads; some of 32 show what depends on the number of warps.
unsigned threads_of(uint64_t number) { return number % 4 == 0 ? 32 : 512; }

void check_builders(Lines& lines, const CheckOptions& options) {
  uint64_t number = 0;
  for_each_builder([&](Collective collective, Algorithm algorithm) {
    CaseGroup group(lines, "lanes, " + std::string(name_of(collective)) + " " +
                               std::string(name_of(algorithm)) + ", fold on and off");
    for (int world = 1; world <= device::kMaxRanks; ++world) {
      ++number;
      if (options.reduced && world != 2 && world != 5) continue;
      LaneCase lane_case = case_of(collective, algorithm, world, number);
      lane_case.threads = threads_of(number);
      group.add(run_both_folds(lane_case));
    }
    group.finish();
  });
}

void check_drawn(Lines& lines, const CheckOptions& options) {
  CaseGroup group(lines, "lanes, drawn cases of all kinds, fold on and off");
  for (uint64_t seed = 1; seed <= (options.reduced ? 10 : 150); ++seed) {
    LaneCase lane_case = draw_case(seed);
    lane_case.threads = threads_of(seed);
    group.add(run_both_folds(lane_case));
  }
  group.finish();
}

void check_large(Lines& lines) {
  CaseGroup group(lines, "lanes, all_reduce of 100003 elements, fold on and off");
  uint64_t number = 0;
  for (const Algorithm algorithm : algorithms_of(Collective::kAllReduce)) {
    for (const int world : {3, 8}) {
      LaneCase lane_case = case_of(Collective::kAllReduce, algorithm, world, ++number);
      lane_case.request.count = 100'003;
      lane_case.request.chunk_bytes = 64 * 1024;
      lane_case.threads = 512;
      group.add(run_both_folds(lane_case));
    }
  }
  group.finish();
}

std::string run_small_case(const SmallCase& small_case) {
  GpuSmall small(small_case);
  const std::vector<SmallData> data = draw_data(small_case);
  std::vector<std::vector<GpuMemory>> memory;  // by operation and rank
  std::vector<GpuMemory> arguments;
  for (std::size_t i = 0; i < data.size(); ++i) {
    memory.emplace_back();
    std::vector<device::SmallArgs> args;
    for (const DeviceMemory& input : data[i].inputs) {
      memory.back().emplace_back(input.size_bytes(), small_case.shift * size_of(small_case.dtype));
      memory.back().back().upload(input.data(), input.size_bytes());
      args.push_back(small.args(static_cast<int>(args.size()), memory.back().back(), 100 + i));
    }
    arguments.push_back(copy_to_gpu(std::span<const device::SmallArgs>(args)));
  }
  for (std::size_t i = 0; i < data.size(); ++i) {
    launch_ranks(small_ranks_kernel(small_case.dtype), arguments[i],
                 {static_cast<unsigned>(small_case.world),
                  GpuSmall::blocks_of(data[i].expected.size_bytes()), GpuSmall::kThreads});
  }
  CUDA_CHECK(cudaDeviceSynchronize());
  if (const std::string failure = failures_of(small.group().controls()); !failure.empty()) {
    return describe(small_case) + ": " + failure;
  }
  for (std::size_t i = 0; i < data.size(); ++i) {
    for (std::size_t rank = 0; rank < memory[i].size(); ++rank) {
      std::vector<std::byte> found(data[i].expected.size_bytes());
      memory[i][rank].download(found.data(), found.size());
      const std::string wrong =
          first_difference(found.data(), data[i].expected.data(), found.size());
      if (wrong.empty()) continue;
      return describe(small_case) + ": rank " + std::to_string(rank) + " differs in operation " +
             std::to_string(i) + ", " + wrong;
    }
  }
  return "";
}

}  // namespace

void check_lanes(Lines& lines, const CheckOptions& options) {
  check_builders(lines, options);
  check_drawn(lines, options);
  if (!options.reduced) check_large(lines);
}

void check_small(Lines& lines, const CheckOptions& options) {
  for (int world = 1; world <= device::kMaxRanks; ++world) {
    if (options.reduced && world != 2 && world != 5) continue;
    CaseGroup group(lines, "small all_reduce, world " + std::to_string(world));
    for (uint64_t seed = 1; seed <= (options.reduced ? 2 : 12); ++seed) {
      SmallCase drawn = draw_small(seed * 100 + static_cast<uint64_t>(world));
      drawn.world = world;
      drawn.counts.push_back(16'001);  // every block several times, or the largest
      group.add(run_small_case(drawn));
    }
    group.finish();
  }
}

}  // namespace fastgpu::test
