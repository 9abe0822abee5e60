// Every step is necessary: the proof fails if any single step of any builder's schedules is broken.
#include <algorithm>
#include <string>

#include "mutations.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

using Breakage = std::function<void(Lane&, std::size_t)>;

// All ways to break a step, except harmless ones: a copy may run twice, and an empty region has no
// position.
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

// Breaks every step in every way, one at a time, and expects a failed proof. Returns the number of
// faults.
int break_every_step(const PlanRequest& request) {
  const World right = build_all(request);
  CHECK_EQ(verify(request, {}, right).counterexample, "");
  int faults = 0;
  for (std::size_t rank = 0; rank < right.size(); ++rank) {
    for (std::size_t lane = 0; lane < right[rank].lanes.size(); ++lane) {
      const Lane& steps = right[rank].lanes[lane];
      for (std::size_t index = 0; index < steps.size(); ++index) {
        for (const auto& breakage : breakages_of(steps[index])) {
          World world = right;
          breakage(world[rank].lanes[lane], index);
          renumber(world[rank].lanes[lane]);
          if (verify(request, {}, world).holds()) {
            throw Failed("not found: " + std::string(name_of(request.collective)) + " " +
                         std::string(name_of(request.algorithm)) + " rank " + std::to_string(rank) +
                         " step " + std::to_string(index) + " " + describe(steps[index]));
          }
          ++faults;
        }
      }
    }
  }
  return faults;
}

}  // namespace

TEST(every_single_step_matters) {
  for_each_builder([](Collective collective, Algorithm algorithm) {
    for (const uint64_t count : {uint64_t{9}, uint64_t{20'000}}) {
      PlanRequest request = subject(collective, algorithm, count);
      request.chunk_bytes = count > 9 ? 20'000 : 16;
      CHECK(break_every_step(request) > 4 * 4);
    }
  });
}

}  // namespace fastgpu::test
