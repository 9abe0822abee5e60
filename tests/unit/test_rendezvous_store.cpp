// How a rank that cannot set up a group tells the others.
#include <string>
#include <thread>

#include "base/error.h"
#include "check.h"
#include "comm/rendezvous_store.h"
#include "comm/store.h"
#include "patience.h"

namespace fastgpu::test {
namespace {

TEST(a_rank_that_ran_out_of_a_resource_is_named) {
  MemoryStore store;
  RendezvousStore first(store, 0, 2, "pair");
  first.report(make_failure(ErrorKind::kOutOfResources, "ran out of memory"), 0);
  RendezvousStore late(store, 1, 2, "pair");
  CHECK_THROWS(late.wait("rank", 0, kNever), OutOfResourcesError,
               "could not set up the group: ran out of memory");
}

TEST(a_failure_is_reported_once_and_the_first_counts) {
  MemoryStore store;
  RendezvousStore first(store, 0, 2, "pair");
  RendezvousStore second(store, 1, 2, "pair");
  first.report(make_failure(ErrorKind::kMismatch, "the first"), 0);
  second.report(make_failure(ErrorKind::kRendezvous, "a consequence"), 0);
  RendezvousStore late(store, 2, 3, "pair");
  CHECK_THROWS(late.wait("rank", 1, kNever), CollectiveMismatchError,
               "could not set up the group: the first. Seen by rank 2");
}

TEST(the_one_that_reports_waits_until_the_others_know) {
  MemoryStore store;
  RendezvousStore mine(store, 0, 2, "pair");
  RendezvousStore other(store, 1, 2, "pair");
  other.set("rank", "its record");
  const TimeNs before = now_ns();
  std::thread reporter(
      [&] { mine.report(make_failure(ErrorKind::kRendezvous, "gone"), kPatience); });
  CHECK_THROWS(other.wait("rank", 0, kNever), RendezvousError, "gone");
  other.report(make_failure(ErrorKind::kRendezvous, "heard"));
  reporter.join();
  CHECK(now_ns() - before < kPatience);
}

TEST(a_rank_that_lost_a_peer_raises_what_that_peer_reports) {
  MemoryStore store;
  RendezvousStore mine(store, 0, 2, "pair");
  RendezvousStore other(store, 1, 2, "pair");
  std::thread reporter([&] {
    other.report(make_failure(ErrorKind::kOutOfResources, "ran out of memory"), kPatience);
  });
  const Failure lost = make_failure(ErrorKind::kPeerLost, "rank 1 was lost", 1);
  const Failure raised = mine.report(lost, kPatience);
  reporter.join();
  CHECK(raised.kind == ErrorKind::kOutOfResources);
  CHECK_EQ(raised.peer, 1);
  CHECK(raised.message.find("could not set up the group: ran out of memory") != std::string::npos);
  bool left = false;
  RendezvousStore third(store, 0, 2, "pair");
  third.report(make_failure(ErrorKind::kAborted, "gone"), 0, [&] {
    left = true;
    CHECK(store.try_get("fastgpu/2/failed").has_value());  // a peer that leave() tells can read it
  });
  CHECK(left);
  RendezvousStore again(store, 0, 2, "pair");
  CHECK_EQ(again.report(lost, 0).message, lost.message);  // nobody has reported anything
}

}  // namespace
}  // namespace fastgpu::test
