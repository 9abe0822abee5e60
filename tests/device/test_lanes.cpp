// Lanes give the bits of the schedules that they were compiled from, and end when a rank fails.
#include <cstdlib>

#include "check.h"
#include "lane_world.h"
#include "seeds.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {
namespace {

// Under a sanitizer a case takes ten times as long.
constexpr uint64_t kLaneCases = kStride == 1 ? 60 : 12;

LaneCase ring_of(int world) {
  LaneCase ring;
  ring.request = request_of(Collective::kAllReduce, Algorithm::kRing, world, 100);
  ring.request.element_size = 4;
  return ring;
}

device::FailurePoint failure_of(const device::Control& control) {
  return __builtin_bit_cast(device::FailurePoint, control.failure);
}

struct FailingRun {
  FailingRun(const LaneCase& lane_case, simt::MachineOptions options)
      : machine(options), world(machine, lane_case, build_all(lane_case.request)) {
    world.set_patience(20'000);
  }
  void launch(int rank, uint64_t key) {
    const device::LaneArgs args = world.args(rank, key);
    const device::LaneKernel kernel = device::run_lanes<Real<float>, Sum>;
    machine.launch(world.stream(rank), {}, [kernel, args] { kernel(args); });
  }
  void synchronize(int ranks) {
    for (int rank = 0; rank < ranks; ++rank) machine.synchronize(world.stream(rank));
  }

  simt::Machine machine;
  LaneWorld world;
};

}  // namespace

TEST(every_drawn_case_gives_the_bits_of_its_schedule) {
  for (const uint64_t seed : seeds()) {
    for (uint64_t i = 0; i < kLaneCases; ++i) CHECK_EQ(run_case(draw_case(seed * 1000 + i)), "");
  }
}

// Drawn cases may leave one out.
TEST(every_algorithm_gives_the_bits_of_its_schedule) {
  uint64_t number = 0;
  for_each_builder([&](Collective collective, Algorithm algorithm) {
    for (int world = 1; world <= device::kMaxRanks; ++world) {
      if (++number % kStride != 0) continue;
      CHECK_EQ(run_case(case_of(collective, algorithm, world, number)), "");
    }
  });
}

TEST(a_rank_that_does_not_come_times_out) {
  const LaneCase ring = ring_of(3);
  FailingRun run(ring, {.seed = 2});
  run.launch(0, 1);
  run.launch(2, 1);
  run.synchronize(3);
  for (int rank = 0; rank < 3; ++rank) {
    CHECK_EQ(run.world.control(rank).stop & 0xff,
             static_cast<uint64_t>(device::FailureCode::kTimeout));
  }
  // The rank that waits for rank 1 names rank 1. The third rank waits for that one.
  const device::FailurePoint failure = failure_of(run.world.control(2));
  CHECK(failure.code == device::FailureCode::kTimeout ||
        failure_of(run.world.control(0)).code == device::FailureCode::kTimeout);
  // A later kernel of the group ends at once, and the failure stays.
  const uint64_t before = run.world.control(0).stop;
  const uint64_t turns = run.machine.turns();
  run.launch(0, 1);
  run.synchronize(1);
  CHECK(run.machine.turns() - turns < 500);
  CHECK_EQ(run.world.control(0).stop, before);
  CHECK_EQ(run.world.operations(0)[0], kFirstOperation);
}

TEST(another_call_is_a_mismatch_with_both_keys) {
  for (const uint64_t seed : {1, 2, 3}) {
    const LaneCase ring = ring_of(3);
    FailingRun run(ring, {.seed = seed});
    for (int rank = 0; rank < 3; ++rank) run.launch(rank, rank == 1 ? 22 : 11);
    run.synchronize(3);
    int found = 0;
    for (int rank = 0; rank < 3; ++rank) {
      const device::Control& control = run.world.control(rank);
      CHECK_EQ(control.stop & 0xff, static_cast<uint64_t>(device::FailureCode::kMismatch));
      if (failure_of(control).code != device::FailureCode::kMismatch) continue;
      ++found;
      const uint64_t mine = rank == 1 ? 22 : 11;
      CHECK_EQ(control.mine[0], mine);
      CHECK_EQ(control.mine[1], ~mine);
      CHECK_EQ(control.theirs[0], 33 - mine);
      CHECK_EQ(control.theirs[1], ~(33 - mine));
      CHECK_EQ(control.operation, kFirstOperation + 1);
      CHECK(rank == 1 || failure_of(control).peer == 1);
    }
    CHECK(found >= 1);
  }
}

TEST(the_host_can_stop_a_kernel) {
  const LaneCase ring = ring_of(2);
  FailingRun run(ring, {.seed = 1});
  run.world.set_patience(UINT64_MAX);
  run.world.stop_by_host();
  run.launch(0, 1);
  run.synchronize(1);
  CHECK(failure_of(run.world.control(0)).code == device::FailureCode::kStopped);
  CHECK(run.world.control(1).stop != 0);
}

// Two kernels that wait for each other need two places on the GPU.
TEST(a_crowded_gpu_times_out) {
  LaneCase ring = ring_of(2);
  ring.ranks_per_gpu = 2;
  FailingRun run(ring, {.seed = 4, .resident_blocks = 1});
  run.launch(0, 1);
  run.launch(1, 1);
  run.synchronize(2);
  CHECK_EQ(run.world.control(0).stop & 0xff, static_cast<uint64_t>(device::FailureCode::kTimeout));
}

}  // namespace fastgpu::test
