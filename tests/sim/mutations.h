// Helpers that plant faults in correct schedules.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "plan/build.h"
#include "schedule_cases.h"

namespace fastgpu::test {

using World = std::vector<Schedule>;

// A request of `count` elements of 4 bytes over 2 lanes and 4 ranks, on the hosts {0, 1} and {2,
// 3}.
inline PlanRequest subject(Collective collective, Algorithm algorithm, uint64_t count = 37) {
  static const std::vector<int> hosts{0, 0, 1, 1};
  PlanRequest request = request_of(collective, algorithm, 4, count);
  request.element_size = 4;
  request.lanes = 2;
  request.chunk_bytes = 16;
  request.host_of = hosts;
  request.root = 1;
  return request;
}

inline Lane& lane_of(World& world, int rank, int lane = 0) {
  return world.at(static_cast<std::size_t>(rank)).lanes.at(static_cast<std::size_t>(lane));
}

// The first step of the lane that `chosen` accepts, after `skip` others.
template <typename Chosen>
Lane::iterator find_step(Lane& lane, Chosen chosen, int skip = 0) {
  for (auto step = lane.begin(); step != lane.end(); ++step) {
    if (chosen(*step) && skip-- == 0) return step;
  }
  throw Failed("the schedule has no such step to break");
}

inline bool is_send(const Step& step) {
  return step.verb == Verb::kSend && step.source.size_bytes > 0;
}
inline bool is_recv(const Step& step) {
  return step.verb == Verb::kRecv && step.target.size_bytes > 0;
}
inline bool is_reduce(const Step& step) { return is_recv(step) && step.reduce; }
inline bool is_store(const Step& step) { return is_recv(step) && !step.reduce; }
inline bool is_copy(const Step& step) { return step.verb == Verb::kCopy; }
inline bool is_empty_frame(const Step& step) {
  return step.peer >= 0 && step.source.size_bytes == 0 && step.target.size_bytes == 0;
}

// Numbers the frames again, so that the planted fault is found and not a wrong ordinal.
inline void renumber(Lane& lane) {
  std::map<std::pair<int, Verb>, uint32_t> frames;
  for (Step& step : lane) {
    if (step.peer >= 0) step.ordinal = frames[{step.peer, step.verb}]++;
  }
}
inline void renumber(World& world) {
  for (Schedule& schedule : world) {
    for (Lane& lane : schedule.lanes) renumber(lane);
  }
}

using Plant = std::function<void(World&)>;

// The proof holds before `plant` and fails after it, at every capacity. The counterexample contains
// `words`.
inline void check_found(const PlanRequest& request, const Plant& plant, const std::string& words) {
  World world = build_all(request);
  for (const int capacity : {0, 1, 4}) {
    CHECK_EQ(verify(request, {capacity, 7, {}}, world).counterexample, "");
  }
  plant(world);
  for (const int capacity : {0, 1, 4}) {
    const Proof proof = verify(request, {capacity, 7, {}}, world);
    CHECK(!proof.holds());
    if (proof.counterexample.find(words) == std::string::npos) {
      throw Failed("found another fault: " + proof.counterexample);
    }
  }
}

}  // namespace fastgpu::test
