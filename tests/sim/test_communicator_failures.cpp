// Ranks as threads of one process, over real rings and sockets: the errors that calls raise when
// ranks call different things, come late, leave, or abort.
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "sim/rank_threads.h"

namespace fastgpu {
namespace {

TEST(an_unmatched_call_names_both_on_every_rank) {
  with_world(3, Options{}, [](Communicator& communicator) {
    std::vector<float> values(communicator.rank() == 1 ? 64 : 32);
    // A rank that hears of the others' quarrel before its own call is refused at the call.
    const auto all_reduce = [&] {
      communicator.wait(*communicator.run(all_reduce_of(values)), -1);
    };
    CHECK_THROWS(all_reduce(), CollectiveMismatchError, "count=64");
    CHECK_THROWS(all_reduce(), CollectiveMismatchError, "count=32");
    CHECK_THROWS(communicator.run(all_reduce_of(values)), CollectiveMismatchError, "count=64");
  });
}

TEST(broadcasts_from_different_roots_do_not_pass) {
  with_world(2, Options{}, [](Communicator& communicator) {
    std::vector<float> values(16);
    CollectiveCall call = all_reduce_of(values);
    call.shape.collective = Collective::kBroadcast;
    call.shape.root = communicator.rank();
    const auto work = communicator.run(std::move(call));
    CHECK_THROWS(communicator.wait(*work, -1), CollectiveMismatchError, "root=");
  });
}

TEST(a_time_out_names_who_is_missing) {
  with_world(2, Options{}, [](Communicator& communicator) {
    if (communicator.rank() == 1) {
      // Comes only when the other one has given up.
      while (communicator.failure() == nullptr) std::this_thread::yield();
      return;
    }
    std::vector<float> values(16);
    CollectiveCall call = all_reduce_of(values);
    call.timeout_ms = 100;
    const auto work = communicator.run(std::move(call));
    CHECK_THROWS(communicator.wait(*work, -1), CollectiveTimeoutError, "waited for rank 1 (host ");
  });
}

// The error of an all_gather with parts of different sizes, which is made of broadcasts.
TEST(a_part_of_a_call_has_the_name_of_the_call) {
  with_world(2, Options{}, [](Communicator& communicator) {
    if (communicator.rank() == 1) {
      while (communicator.failure() == nullptr) std::this_thread::yield();
      return;
    }
    std::vector<float> values(3);
    CollectiveCall call = all_reduce_of(values);
    call.shape.collective = Collective::kBroadcast;
    call.shape.root = 1;
    call.op = "all_gather";
    call.timeout_ms = 100;
    const auto work = communicator.run(std::move(call));
    CHECK_THROWS(communicator.wait(*work, -1), CollectiveTimeoutError,
                 ") of all_gather waited for");
    CHECK_EQ(work->failure().op, "all_gather");
  });
}

// The time-out of a receive does not run before a wait, nor during a wait with a limit.
void check_idle_receive(Communicator& communicator, bool by_future) {
  std::byte token{};
  MessageCall message;
  message.peer = 1 - communicator.rank();
  message.data = &token;
  message.size_bytes = 1;
  if (communicator.rank() == 1) {
    communicator.wait(*communicator.recv(message), -1);
    communicator.wait(*communicator.send(message), -1);
    while (communicator.failure() == nullptr) std::this_thread::yield();
    return;
  }
  message.synchronous = false;
  const auto go = communicator.send(message);
  message.timeout_ms = 100;
  const auto idle = communicator.recv(message);
  const auto late = communicator.recv(message);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  communicator.wait(*go, -1);
  communicator.wait(*idle, 20'000);
  CHECK_THROWS(communicator.wait(*late, 200), CollectiveTimeoutError, "is still pending");
  if (by_future) {
    communicator.request_progress(*late);
    late->sleep_until_done(now_ns() + 60 * kSecond);
    CHECK(late->done());
  }
  CHECK_THROWS(communicator.wait(*late, -1), CollectiveTimeoutError,
               "Timed out after 100 ms: recv of 1 element of uint8 with tag 0 waited for rank 1 "
               "(host ");
}

TEST(a_receive_times_out_while_somebody_waits_for_it) {
  for (const bool by_future : {false, true}) {
    with_world(2, Options{}, [by_future](Communicator& communicator) {
      check_idle_receive(communicator, by_future);
    });
  }
}

TEST(a_rank_that_leaves_is_named) {
  with_world(2, Options{}, [](Communicator& communicator) {
    check_all_reduce(communicator, 10);
    if (communicator.rank() == 1) return communicator.shutdown("its program ended");
    std::vector<float> values(16);
    const auto work = communicator.run(all_reduce_of(values));
    CHECK_THROWS(communicator.wait(*work, -1), PeerLostError,
                 "has left the group: its program ended. Seen by rank 0 in all_reduce #2 ");
  });
}

// The leaving rank links with peers that it never used. So they have its reason before they miss
// it.
TEST(a_rank_that_leaves_for_a_reason_tells_ranks_without_a_link) {
  for (const Transport transport : {Transport::kShm, Transport::kTcp}) {
    Options options;
    options.transport = transport;
    std::atomic<bool> has_left{false};
    with_own_engines(5, options, [&](Communicator& communicator, Runtime&) {
      if (communicator.rank() == 4) {
        communicator.shutdown("its program ended with a mistake", /*dials=*/true);
        has_left = true;
        return;
      }
      while (!has_left) std::this_thread::yield();
      std::vector<float> values(16);
      CHECK_THROWS(communicator.wait(*communicator.run(all_reduce_of(values)), -1), PeerLostError,
                   "has left the group: its program ended with a mistake");
    });
  }
}

TEST(abort_fails_what_is_pending) {
  with_world(2, Options{}, [](Communicator& communicator) {
    std::byte token{};
    MessageCall message;
    message.peer = 1 - communicator.rank();
    message.data = &token;
    message.size_bytes = 1;
    if (communicator.rank() == 1) {
      communicator.wait(*communicator.send(message), -1);
      while (communicator.failure() == nullptr) std::this_thread::yield();
      return;
    }
    communicator.wait(*communicator.recv(message), -1);
    std::vector<float> values(16);
    CollectiveCall call = all_reduce_of(values);
    call.synchronous = false;
    const auto work = communicator.run(std::move(call));
    communicator.abort("for the test");
    CHECK(work->done());
    CHECK_THROWS(communicator.wait(*work, -1), AbortedError, "for the test");
  });
}

}  // namespace
}  // namespace fastgpu
