// verify() finds planted faults: each test proves the schedules of a builder, breaks them in one
// place, and expects a counterexample that names the fault.
#include <algorithm>
#include <string>
#include <utility>

#include "mutations.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

const PlanRequest kRing = subject(Collective::kAllReduce, Algorithm::kRing);
const PlanRequest kTree = subject(Collective::kAllReduce, Algorithm::kTree);
const PlanRequest kOneShot = subject(Collective::kAllReduce, Algorithm::kDirect);
const PlanRequest kTwoShot = subject(Collective::kAllReduce, Algorithm::kDirect, 20'000);

}  // namespace

TEST(dropped_send) {
  check_found(
      kRing,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        lane.erase(find_step(lane, is_send, 1));
        renumber(world);
      },
      "reduces byte");
}

TEST(dropped_last_send) {
  check_found(
      kTwoShot,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        lane.erase(find_step(lane, is_send, 5));
        renumber(world);
      },
      "deadlock");
}

TEST(dropped_recv) {
  check_found(
      kTwoShot,
      [](World& world) {
        Lane& lane = lane_of(world, 3);
        lane.erase(find_step(lane, is_store, 2));
        renumber(world);
      },
      "unmatched send");
}

TEST(duplicated_recv) {
  check_found(
      kTwoShot,
      [](World& world) {
        Lane& lane = lane_of(world, 0);
        lane.push_back(*find_step(lane, is_store, 1));
        renumber(world);
      },
      "deadlock");
}

TEST(extra_send) {
  check_found(
      kTree,
      [](World& world) {
        Lane& lane = lane_of(world, 1);
        lane.push_back(*find_step(lane, is_send));
        renumber(world);
      },
      "unmatched send");
}

TEST(wrong_peer) {
  check_found(
      kTwoShot,
      [](World& world) {
        find_step(lane_of(world, 1), is_send)->peer = 3;
        renumber(world);
      },
      "reduces byte");
}

TEST(peer_outside_the_world) {
  check_found(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_send)->peer = 4; },
      "outside the world");
}

TEST(talking_to_itself) {
  check_found(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_recv)->peer = 1; }, "its own peer");
}

TEST(store_instead_of_reduce) {
  check_found(
      kRing,
      [](World& world) {
        Step& step = *find_step(lane_of(world, 0), is_reduce, 2);
        step.reduce = step.completes = false;
      },
      "the sum of all ranks");
}

TEST(reduce_instead_of_store) {
  check_found(
      kRing, [](World& world) { find_step(lane_of(world, 0), is_store, 1)->reduce = true; },
      "counted twice");
}

TEST(partial_sum_taken_for_complete) {
  for (const PlanRequest& request : {kRing, kTree}) {
    const auto is_partial = [](const Step& step) { return step.reduce && !step.completes; };
    check_found(
        request,
        [&](World& world) {
          for (int rank = 0; rank < 4; ++rank) {
            for (Step& step : lane_of(world, rank)) step.completes |= is_partial(step);
          }
        },
        "not the sum of all ranks");
  }
}

TEST(sum_that_no_step_completes) {
  for (const PlanRequest& request : {kRing, kTree, kOneShot, kTwoShot}) {
    check_found(
        request,
        [](World& world) {
          for (int rank = 0; rank < 4; ++rank) {
            for (Step& step : lane_of(world, rank)) {
              if (std::exchange(step.completes, false)) return;
            }
          }
        },
        "of a sum that a step completes");
  }
}

TEST(store_that_completes) {
  check_found(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_store)->completes = true; },
      "completes elements that it does not reduce");
}

TEST(reduction_order_differs_on_one_rank) {
  check_found(
      kOneShot,
      [](World& world) {
        Lane& lane = lane_of(world, 3);
        std::iter_swap(find_step(lane, is_reduce, 0), find_step(lane, is_reduce, 1));
      },
      "different orders");
}

TEST(shifted_source) {
  check_found(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_send)->source.offset_bytes += 4; },
      "reduces byte");
}

TEST(shifted_target) {
  PlanRequest request = subject(Collective::kAllGather, Algorithm::kDirect);
  request.lanes = 1;
  check_found(
      request,
      [](World& world) { find_step(lane_of(world, 1), is_store, 1)->target.offset_bytes -= 4; },
      "no step has written");
}

TEST(wrong_shard) {
  check_found(
      subject(Collective::kAllGather, Algorithm::kDirect),
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        std::swap(find_step(lane, is_store, 1)->target, find_step(lane, is_store, 2)->target);
      },
      "ends with byte");
}

TEST(half_an_element) {
  check_found(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_send)->source.size_bytes -= 2; },
      "whole elements");
}

TEST(frame_one_element_short) {
  check_found(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_send)->source.size_bytes -= 4; },
      "sizes differ");
}

TEST(beyond_the_buffer) {
  check_found(
      kRing,
      [](World& world) {
        Region& target = find_step(lane_of(world, 1, 1), is_recv)->target;
        target.offset_bytes = 37 * 4 - target.size_bytes + 4;
      },
      "beyond its buffer");
}

TEST(sends_to_one_peer_reordered) {
  check_found(
      kTree,
      [](World& world) {
        Lane& lane = lane_of(world, 0);
        std::swap(find_step(lane, is_send, 0)->source, find_step(lane, is_send, 1)->source);
      },
      "reduces byte");
}

TEST(wrong_ordinal) {
  check_found(
      kTree, [](World& world) { ++find_step(lane_of(world, 0), is_send, 1)->ordinal; },
      "ordinal is wrong");
}

TEST(everyone_receives_first) {
  check_found(
      kRing,
      [](World& world) {
        for (int rank = 0; rank < 4; ++rank) {
          Lane& lane = lane_of(world, rank);
          std::iter_swap(find_step(lane, is_send), find_step(lane, is_recv));
        }
      },
      "deadlock");
}

// A run over channels with enough room would not fail. The vector clocks find it at every capacity.
TEST(write_under_a_pending_send) {
  check_found(
      kOneShot,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        const Step copy = *find_step(lane, is_copy);
        for (Step& step : lane) {
          if (is_send(step)) step.source = copy.source;
        }
      },
      "pending send");
}

TEST(scratch_used_again_too_early) {
  PlanRequest request = request_of(Collective::kReduceScatter, Algorithm::kRing, 6, 10);
  check_found(
      request,
      [](World& world) {
        for (int rank = 0; rank < 6; ++rank) {
          std::erase_if(lane_of(world, rank), is_empty_frame);
          Lane& lane = lane_of(world, rank);  // keeps the handshake, at other places
          Step hello = *find_step(lane, is_recv);
          hello.verb = Verb::kSend;
          hello.target = hello.source = {};
          hello.reduce = false;
          Step answer = *find_step(lane, is_send);
          answer.verb = Verb::kRecv;
          answer.source = {};
          lane.insert(lane.begin(), hello);
          lane.push_back(answer);
        }
        renumber(world);
      },
      "pending send");
}

TEST(missing_handshake) {
  check_found(
      subject(Collective::kBroadcast, Algorithm::kDirect),
      [](World& world) {
        for (int rank = 0; rank < 4; ++rank) std::erase_if(lane_of(world, rank), is_empty_frame);
      },
      "no handshake");
}

TEST(handshake_on_one_side_only) {
  check_found(
      subject(Collective::kGather, Algorithm::kDirect),
      [](World& world) {
        Lane& lane = lane_of(world, 1);
        lane.erase(find_step(lane, is_empty_frame));
      },
      "no handshake");
}

TEST(barrier_a_round_short) {
  PlanRequest request = request_of(Collective::kBarrier, Algorithm::kDirect, 5, 0);
  check_found(
      request,
      [](World& world) {
        for (int rank = 0; rank < 5; ++rank) {
          std::erase_if(lane_of(world, rank), [&](const Step& step) {
            return step.peer == (rank + 4) % 5 || step.peer == (rank + 1) % 5;
          });
        }
      },
      "has begun");
}

TEST(written_input) {
  check_found(
      subject(Collective::kReduceScatter, Algorithm::kDirect),
      [](World& world) { find_step(lane_of(world, 1), is_recv)->target.buffer = Buffer::kInput; },
      "input is written");
}

TEST(unwritten_scratch_is_read) {
  check_found(
      kOneShot,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        lane.erase(find_step(lane, is_copy));
      },
      "no step has written");
}

TEST(lanes_that_share) {
  check_found(
      kOneShot,
      [](World& world) {
        const Region scratch = find_step(lane_of(world, 2, 1), is_send)->source;
        for (Step& step : lane_of(world, 2)) {
          for (Region* region : {&step.source, &step.target}) {
            if (region->buffer == Buffer::kScratch) region->offset_bytes = scratch.offset_bytes;
          }
        }
      },
      "share bytes");
}

TEST(a_lane_too_few) {
  check_found(kRing, [](World& world) { world[3].lanes.pop_back(); }, "the number of lanes");
}

// Correct while input and data are different memories, but reduce allows them to be the same.
TEST(reduce_that_stores_over_its_input) {
  check_found(
      subject(Collective::kReduce, Algorithm::kDirect),
      [](World& world) {
        Lane& lane = lane_of(world, 1);
        const auto copy = find_step(lane, is_copy);
        const Region input = copy->source;
        lane.erase(copy);
        find_step(lane, is_copy)->source = input;
      },
      "counted twice");
}

TEST(hosts_that_do_not_talk) {
  check_found(
      subject(Collective::kAllReduce, Algorithm::kHierarchical),
      [](World& world) {
        for (int rank = 0; rank < 4; ++rank) {
          for (int lane = 0; lane < 2; ++lane) {
            std::erase_if(lane_of(world, rank, lane), [&](const Step& step) {
              return step.peer >= 0 && step.peer / 2 != rank / 2;
            });
          }
        }
      },
      "the sum of all ranks");
}

}  // namespace fastgpu::test
