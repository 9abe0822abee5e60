// Every step is needed: breaking any step of any builder's schedules makes the proof fail.
#include <algorithm>
#include <string>

#include "mutations.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

using Breakage = std::function<void(Lane&, std::size_t)>;

// Every way to break one step that cannot be harmless. Copies may be repeated and empty regions lie
// nowhere: those are left out.
std::vector<Breakage> breakages_of(const Step& step) {
  std::vector<Breakage> all;
  const auto at = [](Lane& lane, std::size_t index) {
    return lane.begin() + static_cast<std::ptrdiff_t>(index);
  };
  all.emplace_back([at](Lane& lane, std::size_t index) { lane.erase(at(lane, index)); });
  const bool frame = step.peer >= 0;
  if (frame || step.reduce) {
    all.emplace_back([at](Lane& lane, std::size_t index) {
      const Step twice = lane[index];
      lane.insert(at(lane, index), twice);
    });
  }
  if (frame) all.emplace_back([](Lane& lane, std::size_t index) { ++lane[index].peer; });
  if (step.source.size_bytes > 0) {
    all.emplace_back([](Lane& lane, std::size_t index) { lane[index].source.offset_bytes += 4; });
    all.emplace_back([](Lane& lane, std::size_t index) { lane[index].source.size_bytes -= 4; });
  }
  if (step.target.size_bytes > 0) {
    all.emplace_back([](Lane& lane, std::size_t index) { lane[index].target.offset_bytes += 4; });
    all.emplace_back([](Lane& lane, std::size_t index) { lane[index].target.size_bytes -= 4; });
    all.emplace_back([](Lane& lane, std::size_t index) { lane[index].reduce ^= true; });
  }
  return all;
}

// How many of the broken worlds the proof refutes, and that it is all of them.
int kill_all(const PlanRequest& request) {
  const World right = build_all(request);
  CHECK_EQ(verify(request, {}, right).counterexample, "");
  int killed = 0;
  for (std::size_t rank = 0; rank < right.size(); ++rank) {
    for (std::size_t lane = 0; lane < right[rank].lanes.size(); ++lane) {
      const Lane& steps = right[rank].lanes[lane];
      for (std::size_t index = 0; index < steps.size(); ++index) {
        for (const auto& breakage : breakages_of(steps[index])) {
          World world = right;
          breakage(world[rank].lanes[lane], index);
          renumber(world[rank].lanes[lane]);
          if (verify(request, {}, world).holds()) {
            throw Failed("survives: " + std::string(name_of(request.collective)) + " " +
                         std::string(name_of(request.algorithm)) + " rank " + std::to_string(rank) +
                         " step " + std::to_string(index) + " " + describe(steps[index]));
          }
          ++killed;
        }
      }
    }
  }
  return killed;
}

}  // namespace

TEST(every_single_step_matters) {
  for_each_builder([](Collective collective, Algorithm algorithm) {
    for (const uint64_t count : {uint64_t{9}, uint64_t{20'000}}) {
      PlanRequest request = subject(collective, algorithm, count);
      request.chunk_bytes = count > 9 ? 20'000 : 16;
      CHECK(kill_all(request) > 4 * 4);
    }
  });
}

}  // namespace fastgpu::test
