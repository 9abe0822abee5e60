// Ranks that share a GPU with one place for a block sum with the order that events give.
#include "check.h"
#include "seeds.h"
#include "stream_world.h"

namespace fastgpu::test {

TEST(events_order_ranks_that_share_a_gpu) {
  for (const uint64_t seed : seeds()) {
    for (uint64_t i = 0; i < 6; ++i) CHECK_EQ(run_streams(seed * 1000 + i), "");
  }
}

}  // namespace fastgpu::test
