// The proof can fail: builders' schedules are proven, then broken in one place each, and refuted
// with words that fit the mistake.
#include <algorithm>
#include <string>

#include "mutations.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

using Plant = std::function<void(World&)>;

// Proven before, refuted after, at every capacity; the counterexample holds `words`.
void check_killed(const PlanRequest& request, const Plant& plant, const std::string& words) {
  World world = build_all(request);
  for (const int capacity : {0, 1, 4}) {
    CHECK_EQ(verify(request, {capacity, 7, {}}, world).counterexample, "");
  }
  plant(world);
  for (const int capacity : {0, 1, 4}) {
    const Proof proof = verify(request, {capacity, 7, {}}, world);
    CHECK(!proof.holds());
    if (proof.counterexample.find(words) == std::string::npos) {
      throw Failed("refuted for another reason: " + proof.counterexample);
    }
  }
}

const PlanRequest kRing = subject(Collective::kAllReduce, Algorithm::kRing);
const PlanRequest kTree = subject(Collective::kAllReduce, Algorithm::kTree);
const PlanRequest kOneShot = subject(Collective::kAllReduce, Algorithm::kDirect);
const PlanRequest kTwoShot = subject(Collective::kAllReduce, Algorithm::kDirect, 20'000);

}  // namespace

TEST(dropped_send) {
  check_killed(
      kRing,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        lane.erase(find_step(lane, is_send, 1));
        renumber(world);
      },
      "reduces byte");
}

TEST(dropped_last_send) {
  check_killed(
      kTwoShot,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        lane.erase(find_step(lane, is_send, 5));
        renumber(world);
      },
      "deadlock");
}

TEST(dropped_recv) {
  check_killed(
      kTwoShot,
      [](World& world) {
        Lane& lane = lane_of(world, 3);
        lane.erase(find_step(lane, is_store, 2));
        renumber(world);
      },
      "unmatched send");
}

TEST(duplicated_recv) {
  check_killed(
      kTwoShot,
      [](World& world) {
        Lane& lane = lane_of(world, 0);
        lane.push_back(*find_step(lane, is_store, 1));
        renumber(world);
      },
      "deadlock");
}

TEST(extra_send) {
  check_killed(
      kTree,
      [](World& world) {
        Lane& lane = lane_of(world, 1);
        lane.push_back(*find_step(lane, is_send));
        renumber(world);
      },
      "unmatched send");
}

TEST(wrong_peer) {
  check_killed(
      kTwoShot,
      [](World& world) {
        find_step(lane_of(world, 1), is_send)->peer = 3;
        renumber(world);
      },
      "reduces byte");
}

TEST(peer_outside_the_world) {
  check_killed(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_send)->peer = 4; },
      "outside the world");
}

TEST(talking_to_itself) {
  check_killed(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_recv)->peer = 1; },
      "its own peer");
}

TEST(store_instead_of_reduce) {
  check_killed(
      kRing, [](World& world) { find_step(lane_of(world, 0), is_reduce, 2)->reduce = false; },
      "the sum of all ranks");
}

TEST(reduce_instead_of_store) {
  check_killed(
      kRing, [](World& world) { find_step(lane_of(world, 0), is_store, 1)->reduce = true; },
      "counted twice");
}

TEST(reduction_order_differs_on_one_rank) {
  check_killed(
      kOneShot,
      [](World& world) {
        Lane& lane = lane_of(world, 3);
        std::iter_swap(find_step(lane, is_reduce, 0), find_step(lane, is_reduce, 1));
      },
      "different orders");
}

TEST(shifted_source) {
  check_killed(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_send)->source.offset_bytes += 4; },
      "reduces byte");
}

TEST(shifted_target) {
  PlanRequest request = subject(Collective::kAllGather, Algorithm::kDirect);
  request.lanes = 1;
  check_killed(
      request,
      [](World& world) { find_step(lane_of(world, 1), is_store, 1)->target.offset_bytes -= 4; },
      "no step has written");
}

TEST(wrong_shard) {
  check_killed(
      subject(Collective::kAllGather, Algorithm::kDirect),
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        std::swap(find_step(lane, is_store, 1)->target, find_step(lane, is_store, 2)->target);
      },
      "ends with byte");
}

TEST(half_an_element) {
  check_killed(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_send)->source.size_bytes -= 2; },
      "whole elements");
}

TEST(frame_one_element_short) {
  check_killed(
      kRing, [](World& world) { find_step(lane_of(world, 1), is_send)->source.size_bytes -= 4; },
      "sizes differ");
}

TEST(beyond_the_buffer) {
  check_killed(
      kRing,
      [](World& world) {
        Region& target = find_step(lane_of(world, 1, 1), is_recv)->target;
        target.offset_bytes = 37 * 4 - target.size_bytes + 4;
      },
      "beyond its buffer");
}

TEST(sends_to_one_peer_reordered) {
  check_killed(
      kTree,
      [](World& world) {
        Lane& lane = lane_of(world, 0);
        std::swap(find_step(lane, is_send, 0)->source, find_step(lane, is_send, 1)->source);
      },
      "reduces byte");
}

TEST(wrong_ordinal) {
  check_killed(
      kTree, [](World& world) { ++find_step(lane_of(world, 0), is_send, 1)->ordinal; },
      "ordinal is wrong");
}

TEST(everyone_receives_first) {
  check_killed(
      kRing,
      [](World& world) {
        for (int rank = 0; rank < 4; ++rank) {
          Lane& lane = lane_of(world, rank);
          std::iter_swap(find_step(lane, is_send), find_step(lane, is_recv));
        }
      },
      "deadlock");
}

// Enough room in the channels would hide it in a run; the clocks show it at every capacity.
TEST(write_under_a_pending_send) {
  check_killed(
      kOneShot,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        const Step copy = *find_step(lane, [](const Step& s) { return s.verb == Verb::kCopy; });
        for (Step& step : lane) {
          if (is_send(step)) step.source = copy.source;
        }
      },
      "pending send");
}

TEST(scratch_used_again_too_early) {
  PlanRequest request = request_of(Collective::kReduceScatter, Algorithm::kRing, 6, 10);
  check_killed(
      request,
      [](World& world) {
        for (int rank = 0; rank < 6; ++rank) {
          std::erase_if(lane_of(world, rank), is_empty_frame);
          Lane& lane = lane_of(world, rank);  // keeps a handshake, of another kind
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
  check_killed(
      subject(Collective::kBroadcast, Algorithm::kDirect),
      [](World& world) {
        for (int rank = 0; rank < 4; ++rank) std::erase_if(lane_of(world, rank), is_empty_frame);
      },
      "no handshake");
}

TEST(handshake_on_one_side_only) {
  check_killed(
      subject(Collective::kGather, Algorithm::kDirect),
      [](World& world) {
        Lane& lane = lane_of(world, 1);
        lane.erase(find_step(lane, is_empty_frame));
      },
      "no handshake");
}

TEST(barrier_a_round_short) {
  PlanRequest request = request_of(Collective::kBarrier, Algorithm::kDirect, 5, 0);
  check_killed(
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
  check_killed(
      subject(Collective::kReduceScatter, Algorithm::kDirect),
      [](World& world) { find_step(lane_of(world, 1), is_recv)->target.buffer = Buffer::kInput; },
      "input is written");
}

TEST(unwritten_scratch_is_read) {
  check_killed(
      kOneShot,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        lane.erase(find_step(lane, [](const Step& step) { return step.verb == Verb::kCopy; }));
      },
      "no step has written");
}

TEST(lanes_that_share) {
  check_killed(
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
  check_killed(kRing, [](World& world) { world[3].lanes.pop_back(); }, "the number of lanes");
}

// Right as long as input and data are two memories; reduce allows them to be one.
TEST(reduce_that_stores_over_its_input) {
  check_killed(
      subject(Collective::kReduce, Algorithm::kDirect),
      [](World& world) {
        Lane& lane = lane_of(world, 1);
        const auto copy =
            find_step(lane, [](const Step& step) { return step.verb == Verb::kCopy; });
        const Region input = copy->source;
        lane.erase(copy);
        find_step(lane, [](const Step& s) { return s.verb == Verb::kCopy; })->source = input;
      },
      "counted twice");
}

TEST(hosts_that_do_not_talk) {
  check_killed(
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
