// The small all_reduce sums the data in its slots, and ignores data of earlier operations.
#include "check.h"
#include "seeds.h"
#include "sim/schedule_cases.h"
#include "small_world.h"

namespace fastgpu::test {
namespace {

constexpr uint64_t kSmallCases = kStride == 1 ? 16 : 4;

device::FailurePoint point_of(const device::Control& control) {
  return __builtin_bit_cast(device::FailurePoint, control.failure);
}

}  // namespace

TEST(drawn_operations_give_the_bits_of_the_cpu) {
  for (const uint64_t seed : seeds()) {
    for (uint64_t i = 0; i < kSmallCases; ++i) CHECK_EQ(run_small(draw_small(seed * 1000 + i)), "");
  }
}

// 2^31 operations ago a slot was used last, and its flag is that of an operation to come.
TEST(old_slots_are_cleared_before_their_flags_come_again) {
  SmallCase old;
  old.world = 3;
  old.ended = 3 * device::kClearEvery - 1;
  old.counts = {1, 1, 600, 600};
  // The flag of the third operation, in slots that only large operations use.
  old.first_slot_flag = static_cast<uint32_t>(old.ended + 3) | 0x80000000;
  CHECK_EQ(run_small(old), "");
  old.counts = {600};
  old.first_slot_flag = static_cast<uint32_t>(old.ended + 1) | 0x80000000;
  CHECK(run_small(old) != "");  // so the flag does count
}

TEST(a_smaller_grid_leaves_the_other_blocks_as_they_are) {
  SmallCase mixed;
  mixed.counts = {600, 1, 1, 1, 600, 33, 600};
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    mixed.seed = seed;
    mixed.slow_stream = true;
    CHECK_EQ(run_small(mixed), "");
  }
}

TEST(a_missing_rank_times_out) {
  SmallCase two;
  simt::Machine machine({.seed = 1});
  SmallWorld world(machine, two);
  world.set_patience(20'000);
  DeviceMemory data(64);
  world.launch(0, data.data(), 64, 1);
  world.synchronize();
  CHECK(point_of(world.control(0)).code == device::FailureCode::kTimeout);
  CHECK_EQ(int{point_of(world.control(0)).peer}, 1);
  CHECK(world.control(1).stop != 0);
}

TEST(another_small_call_is_a_mismatch_with_both_keys) {
  SmallCase two;
  simt::Machine machine({.seed = 1});
  SmallWorld world(machine, two);
  DeviceMemory small(64);
  DeviceMemory large(2048);  // more blocks
  world.launch(0, small.data(), 64, 5);
  world.launch(1, large.data(), 2048, 6);
  world.synchronize();
  int found = 0;
  for (int rank = 0; rank < 2; ++rank) {
    const device::Control& control = world.control(rank);
    CHECK(control.stop != 0);
    if (point_of(control).code != device::FailureCode::kMismatch) continue;
    ++found;
    const uint64_t mine = rank == 0 ? 5 : 6;
    CHECK_EQ(control.mine[0], mine);
    CHECK_EQ(control.mine[1], ~mine);
    CHECK_EQ(control.theirs[0], 11 - mine);
    CHECK_EQ(control.theirs[1], ~(11 - mine));
  }
  CHECK(found >= 1);
}

}  // namespace fastgpu::test
