// A send may say that its reply is stored over the same region (Step::reply). The peer may then
// write there, from the time when it has read the payload until the reply is received. Checks what
// LaneBuilder found in one pass against this definition, for every builder.
#include <string>

#include "check.h"
#include "plan/builders/lane_builder.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

bool writes(const Step& step, const Region& region) { return overlap(step.target, region); }
bool touches(const Step& step, const Region& region) {
  return overlap(step.source, region) || overlap(step.target, region);
}

// Why the reply of lane[asking] is not one; empty if it is.
std::string flaw_of(const Lane& lane, std::size_t asking) {
  const Step& send = lane[asking];
  const Region region = send.source;
  // Earlier sends of the region must be known to have left, because something was stored there.
  for (std::size_t before = asking; before > 0; --before) {
    const std::size_t i = before - 1;
    if (writes(lane[i], region)) break;
    if (touches(lane[i], region)) return "is read by step " + std::to_string(i) + " before";
  }
  for (std::size_t i = asking + 1; i < lane.size(); ++i) {
    const Step& step = lane[i];
    if (step.verb == Verb::kRecv && step.peer == send.peer && step.ordinal + 1 == send.reply) {
      return step.target == region && !step.reduce ? "" : "lies elsewhere, or is reduced";
    }
    if (touches(step, region)) return "is touched by step " + std::to_string(i) + " meanwhile";
  }
  return "does not come";
}

TEST(replies_are_safe) {
  uint64_t found = 0;
  for_each_builder([&](Collective collective, Algorithm algorithm) {
    for (const int world : {1, 2, 3, 4, 5, 8, 13}) {
      for (const int lanes : {1, 2}) {
        PlanRequest request = request_of(collective, algorithm, world, 1003);
        request.element_size = 4;
        request.lanes = lanes;
        request.chunk_bytes = 512;
        const std::vector<int> hosts = uneven_hosts(world, 3, false);
        request.host_of = hosts;
        for (request.rank = 0; request.rank < world; ++request.rank) {
          for (const Lane& lane : build(request).lanes) {
            for (std::size_t i = 0; i < lane.size(); ++i) {
              if (lane[i].reply == 0) continue;
              ++found;
              const std::string flaw = flaw_of(lane, i);
              if (!flaw.empty()) {
                CHECK_EQ(std::string(name_of(collective)) + " " + std::string(name_of(algorithm)) +
                             " world " + std::to_string(world) + " rank " +
                             std::to_string(request.rank) + " step " + std::to_string(i) + " " +
                             describe(lane[i]) + ": the reply " + flaw,
                         "");
              }
            }
          }
        }
      }
    }
  });
  CHECK(found > 300);
}

// Step::reply of the sends to `peer`, in order.
std::string replies(LaneBuilder& steps, int peer) {
  std::string text;
  for (const Step& step : steps.finish()) {
    if (step.verb == Verb::kSend && step.peer == peer) text += std::to_string(step.reply) + " ";
  }
  return text;
}

TEST(replies_are_found_where_they_are) {
  const Region whole{Buffer::kData, 0, 64};
  const Region half{Buffer::kData, 0, 32};
  {
    LaneBuilder steps;
    steps.send(1, whole);
    steps.recv(2, {Buffer::kData, 64, 64});
    steps.recv(1, whole);
    CHECK_EQ(replies(steps, 1), "1 ");
  }
  {  // another peer's, a part, a sum: not a reply
    for (const bool reduce : {false, true}) {
      LaneBuilder steps;
      steps.send(1, whole);
      reduce ? steps.recv_reduce(1, whole) : steps.recv(1, half);
      CHECK_EQ(replies(steps, 1), "0 ");
    }
  }
  {  // sent to two: neither may be written meanwhile, nor a third's
    LaneBuilder steps;
    steps.send(1, whole);
    steps.send(2, half);
    steps.send(3, whole);
    steps.recv(3, whole);
    steps.recv(1, whole);
    const Lane lane = steps.finish();
    for (const Step& step : lane) CHECK_EQ(step.reply, 0u);
  }
  {  // read in between
    LaneBuilder steps;
    steps.send(1, whole);
    steps.copy(half, {Buffer::kScratch, 0, 32});
    steps.recv(1, whole);
    CHECK_EQ(replies(steps, 1), "0 ");
  }
  {  // written in between: the sums of a chain come from its end
    LaneBuilder steps;
    steps.send(1, whole);
    steps.recv(2, half);
    steps.send(2, half);
    steps.recv(2, half);
    steps.send_empty(1);
    CHECK_EQ(replies(steps, 2), "2 ");
  }
}

}  // namespace
}  // namespace fastgpu::test
