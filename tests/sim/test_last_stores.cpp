// A store into data may be the last that its lane has to do with the bytes (Step::last_use): then
// the engine may leave them out of the caches. Checked by the letter, for every builder, against
// what the builders' one pass over the lane found.
#include <string>

#include "check.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

bool is_last_store(const Lane& lane, std::size_t index) {
  const Step& step = lane[index];
  if (step.verb == Verb::kSend || step.reduce) return false;
  if (step.target.buffer != Buffer::kData || step.target.size_bytes == 0) return false;
  for (std::size_t i = index + 1; i < lane.size(); ++i) {
    if (overlap(lane[i].source, step.target) || overlap(lane[i].target, step.target)) return false;
  }
  return true;
}

}  // namespace

TEST(last_stores_are_found_and_no_others) {
  uint64_t found = 0;
  uint64_t others = 0;
  for_each_builder([&](Collective collective, Algorithm algorithm) {
    for (const int world : {1, 2, 3, 4, 5, 8, 13}) {
      PlanRequest request = request_of(collective, algorithm, world, 1003);
      request.element_size = 4;
      request.lanes = 2;
      request.chunk_bytes = 512;
      request.block_bytes = 1024;
      const std::vector<int> hosts = uneven_hosts(world, 3, false);
      request.host_of = hosts;
      for (request.rank = 0; request.rank < world; ++request.rank) {
        for (const Lane& lane : build(request).lanes) {
          for (std::size_t i = 0; i < lane.size(); ++i) {
            const bool expected = is_last_store(lane, i);
            (expected ? found : others) += 1;
            if (lane[i].last_use == expected) continue;
            CHECK_EQ(std::string(name_of(collective)) + " " + std::string(name_of(algorithm)) +
                         " world " + std::to_string(world) + " rank " +
                         std::to_string(request.rank) + " step " + std::to_string(i) + " " +
                         describe(lane[i]) + (expected ? " is" : " is not") + " a last store",
                     "");
          }
        }
      }
    }
  });
  CHECK(found > 1000);
  CHECK(others > 1000);
}

}  // namespace fastgpu::test
