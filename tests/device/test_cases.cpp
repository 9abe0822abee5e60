// The messages of cases about wrong results, which otherwise only show on a GPU.
#include <array>

#include "check.h"
#include "lane_case.h"

namespace fastgpu::test {

TEST(the_first_wrong_bytes_are_named) {
  std::array<std::byte, 12> expected{};
  std::array<std::byte, 12> found = expected;
  CHECK_EQ(first_difference(found.data(), expected.data(), found.size()), "");
  found[10] = std::byte{0x3f};
  CHECK_EQ(first_difference(found.data(), expected.data(), found.size()),
           "from byte 10 on 3f00, expected 0000");
  CHECK_EQ(first_difference(found.data(), expected.data(), 10), "");
}

TEST(a_wrong_result_is_named_with_its_rank_and_operation) {
  const LaneCase ring = case_of(Collective::kAllReduce, Algorithm::kRing, 3, 1);
  const std::vector<Results> expected = play_turns(schedules_of(ring), ring, 2);
  std::vector<Results> found = expected;
  CHECK_EQ(difference(ring, found, expected), "");
  found[1][2].back() ^= std::byte{1};
  const std::string wrong = difference(ring, found, expected);
  CHECK(wrong.find("rank 2 differs in operation 1, from byte ") != std::string::npos);
}

TEST(failures_are_named_by_rank) {
  std::vector<device::Control> controls(2);
  CHECK_EQ(failures_of(controls), "");
  controls[1].stop = 1;
  const device::FailurePoint point{device::FailureCode::kTimeout, 0, 0, 7};
  controls[1].failure = __builtin_bit_cast(uint64_t, point);
  CHECK_EQ(failures_of(controls), "rank 1: time-out (peer 0, entry 7) ");
}

}  // namespace fastgpu::test
