// The rates of the kernels. Traffic is what a kernel must move; docs/cuda.md has the targets.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "checks.h"
#include "gpu_lanes.h"
#include "kernels/cuda/reduce_code.h"
#include "ranks.h"
#include "rates.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {
namespace {

constexpr std::size_t kRegionBytes = std::size_t{128} << 20;
constexpr uint64_t kRankBytes = uint64_t{64} << 20;

std::vector<GpuMemory> regions(int count) {
  std::vector<GpuMemory> all;
  for (int i = 0; i < count; ++i) {
    all.emplace_back(kRegionBytes);
    all.back().fill(kFilled);
  }
  return all;
}

void measure_reduce(Lines& lines, DType dtype) {
  const std::vector<GpuMemory> sources = regions(device::kMaxSources);
  const std::vector<GpuMemory> targets = regions(device::kMaxSources);
  const void* const kernel = device::reduce_all_kernel(dtype, ReduceOp::kSum);
  const unsigned blocks = resident_blocks(kernel, 512);
  std::vector<Timed> all;
  const auto add = [&](int inputs, int outputs) {
    device::ReduceArgs args{};
    args.size_bytes = kRegionBytes;
    args.factor = 1;
    args.sources.count = inputs;
    args.targets.count = outputs;
    for (std::size_t i = 0; i < index_of(inputs); ++i) args.sources.at[i] = sources[i].data();
    for (std::size_t i = 0; i < index_of(outputs); ++i) args.targets.at[i] = targets[i].data();
    all.push_back({.what = "n-way reduction, " + std::string(name_of(dtype)) + ", " +
                           std::to_string(inputs) + " in, " + std::to_string(outputs) + " out",
                   .bytes = static_cast<double>(inputs + outputs) * kRegionBytes,
                   .target = 0.95,
                   .launch = [=] { launch(kernel, blocks, 512, args); }});
  };
  for (int inputs = 2; inputs <= device::kMaxSources; ++inputs) add(inputs, 1);
  for (const int both : {2, 4, 8}) add(both, both);
  measure_beside_copy(lines, all);
}

// A two-shot all_reduce of `world` ranks that share the GPU.
struct TwoShot {
  TwoShot(int world, int lane_count, bool fold)
      : lane_case(case_of_two_shot(world, lane_count, fold)),
        schedules(schedules_of(lane_case)),
        lanes(lane_case, schedules, {16, kRankBytes, schedules.front().scratch_bytes + 16}),
        args(lanes.args_of(all_ranks(world), 1)) {}

  static LaneCase case_of_two_shot(int world, int lane_count, bool fold) {
    LaneCase two_shot;
    two_shot.request =
        request_of(Collective::kAllReduce, Algorithm::kDirect, world, kRankBytes / 4);
    two_shot.request.element_size = 4;
    two_shot.request.shots = 2;
    two_shot.request.lanes = lane_count;
    two_shot.fold = fold;
    return two_shot;
  }
  static const void* kernel() { return lane_ranks_kernel(DType::kFloat32, ReduceOp::kSum); }

  Timed timed() const {
    const double n = lane_case.request.world;
    const bool fold = lane_case.fold;
    // Folded, a rank reads n shards and writes one, then reads n - 1 and writes them. Else each
    // sum reads and writes its target, and the own shard is copied before.
    const double shards = fold ? 3 * n - 1 : (n - 1) * (5 * n + 4) / n;
    const RankGrid grid{static_cast<unsigned>(lane_case.request.world), lanes.lanes(), 512};
    return {.what = "lanes, two-shot, " + std::to_string(lane_case.request.world) + " ranks, " +
                    std::to_string(lanes.lanes()) + " lanes, " + (fold ? "folded" : "not folded"),
            .bytes = shards * static_cast<double>(kRankBytes),
            .target = fold ? 0.85 : 0.7,
            .launch = [this, grid] { launch_ranks(kernel(), args, grid); }};
  }

  LaneCase lane_case;
  std::vector<Schedule> schedules;
  GpuLanes lanes;
  GpuMemory args;
};

void measure_two_shot(Lines& lines, int world) {
  const unsigned most = resident_blocks(TwoShot::kernel(), 512) / static_cast<unsigned>(world);
  std::vector<std::unique_ptr<TwoShot>> worlds;
  for (const unsigned lane_count : {8u, 16u, 32u, 64u}) {
    if (lane_count > most) break;
    for (const bool fold : {true, false}) {
      worlds.push_back(std::make_unique<TwoShot>(world, static_cast<int>(lane_count), fold));
    }
  }
  std::vector<Timed> all;
  for (const auto& each : worlds) all.push_back(each->timed());
  measure_beside_copy(lines, all);
  CaseGroup group(lines, "lanes, two-shot, " + std::to_string(world) + " ranks: none failed");
  for (const auto& each : worlds) group.add(failures_of(each->lanes.group().controls()));
  group.finish();
}

// Launches in a row, so that the time of one has its launch in it and no wait of the host.
void measure_small(Lines& lines) {
  constexpr int kLaunches = 100;
  constexpr double kTarget = 8e-6;
  SmallCase small_case;
  small_case.world = 8;
  small_case.ended = 0;
  GpuSmall small(small_case);
  std::vector<GpuMemory> data;
  std::vector<device::SmallArgs> args;
  for (int rank = 0; rank < small_case.world; ++rank) {
    data.emplace_back(1024);
    args.push_back(small.args(rank, data.back(), 1));
  }
  const GpuMemory memory = copy_to_gpu(std::span<const device::SmallArgs>(args));
  const RankGrid grid{8, GpuSmall::blocks_of(1024), GpuSmall::kThreads};
  const void* const kernel = small_ranks_kernel(DType::kFloat32);
  const std::vector<double> medians = medians_of({{.what = "",
                                                   .launch =
                                                       [&] {
                                                         for (int i = 0; i < kLaunches; ++i)
                                                           launch_ranks(kernel, memory, grid);
                                                       }}},
                                                 21);
  const double seconds = medians.front() / kLaunches;
  char figure[32];
  std::snprintf(figure, sizeof figure, "%.2f us", seconds * 1e6);
  lines.rate({.what = "small all_reduce, 1 KiB, 8 ranks in one launch, 100 launches in a row",
              .figure = figure,
              .share = "",
              .target = "8 us",
              .met = seconds <= kTarget});
  CaseGroup group(lines, "small all_reduce, 8 ranks: none failed");
  group.add(failures_of(small.group().controls()));
  group.finish();
}

}  // namespace

void measure_rates(Lines& lines, const CheckOptions&) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    measure_reduce(lines, dtype);
  }
  for (const int world : {2, 4, 8}) measure_two_shot(lines, world);
  measure_small(lines);
}

}  // namespace fastgpu::test
