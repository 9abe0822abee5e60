// The progress thread takes every item once, in the order of the pushes.
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "engine/inbox.h"

namespace fastgpu {
namespace {

TEST(items_are_taken_once_and_in_order) {
  Inbox<int> inbox;
  CHECK(!inbox.filled());
  CHECK(inbox.take().empty());
  for (const int item : {1, 2, 3}) inbox.push(item);
  CHECK(inbox.filled());
  CHECK(inbox.take() == (std::vector<int>{1, 2, 3}));
  CHECK(!inbox.filled());
  CHECK(inbox.take().empty());
  inbox.push(4);
  CHECK(inbox.take() == (std::vector<int>{4}));
  CHECK_EQ(inbox.pushed(), uint64_t{4});
}

TEST(an_inbox_owns_what_was_not_taken) {
  const auto item = std::make_shared<int>(1);
  {
    Inbox<std::shared_ptr<int>> inbox;
    inbox.push(item);
    CHECK_EQ(item.use_count(), 2);
  }
  CHECK_EQ(item.use_count(), 1);
}

TEST(nothing_is_lost_between_threads) {
  constexpr int kThreads = 3;
  constexpr int kEach = 2000;
  Inbox<int> inbox;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&inbox, thread] {
      for (int i = 0; i < kEach; ++i) inbox.push(thread * kEach + i);
    });
  }
  std::vector<int> next(kThreads, 0);
  bool in_order = true;
  for (int taken = 0; taken < kThreads * kEach;) {
    for (const int item : inbox.take()) {
      in_order = in_order && item % kEach == next[static_cast<std::size_t>(item / kEach)]++;
      ++taken;
    }
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(in_order);
  CHECK(inbox.take().empty());
}

}  // namespace
}  // namespace fastgpu
