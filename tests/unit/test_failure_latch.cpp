// The first failure of a communicator, however many threads report one.
#include <atomic>
#include <thread>
#include <vector>

#include "check.h"
#include "engine/failure_latch.h"

namespace fastgpu {
namespace {

Failure failure_of(ErrorKind kind, const std::string& message) {
  Failure failure;
  failure.kind = kind;
  failure.message = message;
  return failure;
}

TEST(the_first_failure_stays) {
  int calls = 0;
  FailureLatch latch([&calls](Failure& failure) {
    ++calls;
    failure.message += ", completed";
  });
  CHECK(latch.failure() == nullptr);
  latch.raise_if_failed();
  latch.report(failure_of(ErrorKind::kMismatch, "first"));
  const Failure* first = latch.failure();
  latch.report(failure_of(ErrorKind::kPeerLost, "second"));
  latch.close(failure_of(ErrorKind::kAborted, "third"));
  CHECK(latch.failure() == first);
  CHECK_EQ(first->message, "first, completed");
  CHECK_EQ(calls, 1);
  CHECK_THROWS(latch.raise_if_failed(), CollectiveMismatchError, "first, completed");
}

TEST(closing_calls_nobody) {
  int calls = 0;
  FailureLatch latch([&calls](Failure&) { ++calls; });
  latch.close(failure_of(ErrorKind::kAborted, "closed"));
  latch.report(failure_of(ErrorKind::kPeerLost, "late"));
  CHECK_EQ(calls, 0);
  CHECK_EQ(latch.failure()->message, "closed");
}

TEST(a_failure_is_seen_only_once_it_is_complete) {
  FailureLatch* self = nullptr;
  bool seen_early = false;
  FailureLatch latch([&](Failure&) { seen_early = self->failure() != nullptr; });
  self = &latch;
  latch.report(failure_of(ErrorKind::kAborted, "one"));
  CHECK(!seen_early);
  CHECK(latch.failure() != nullptr);
}

TEST(of_many_threads_one_reports_first) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> calls{0};
    FailureLatch latch([&calls](Failure& failure) {
      calls.fetch_add(1);
      failure.message += '!';
    });
    std::atomic<int> incomplete{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        latch.report(failure_of(ErrorKind::kPeerLost, std::to_string(i)));
        const Failure* seen = latch.failure();
        if (seen == nullptr || seen->message.size() != 2) incomplete.fetch_add(1);
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(calls.load(), 1);
    CHECK_EQ(incomplete.load(), 0);
  }
}

// A failure that a peer reports may be of another operation than the one that is pending here.
TEST(an_operation_fails_under_its_own_name) {
  Failure first = make_failure(ErrorKind::kTimeout, "Seen in all_to_all #7.", 2, "all_to_all");
  first.sequence = 7;
  const Failure same = failure_for(first, "all_to_all", 7);
  CHECK_EQ(same.message, "Seen in all_to_all #7.");
  const Failure later = failure_for(first, "all_to_all", 8);
  CHECK_EQ(later.message, "Seen in all_to_all #7. With it failed this rank's all_to_all #8.");
  CHECK_EQ(later.op, "all_to_all");
  CHECK_EQ(later.sequence, 8);
  CHECK_EQ(later.peer, 2);
  const Failure message = failure_for(first, "recv");
  CHECK_EQ(message.message, "Seen in all_to_all #7. With it failed this rank's recv.");
  CHECK_EQ(message.op, "recv");
  CHECK_EQ(message.sequence, -1);
}

}  // namespace
}  // namespace fastgpu
