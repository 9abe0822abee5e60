// Several engine threads a rank: the same bits as one, over every kind of channel, and every
// failure as with one. Each rank has an engine and a crew of its own.
#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/affinity.h"
#include "check.h"
#include "comm/pinning.h"
#include "engine/crew.h"
#include "sim/rank_threads.h"

namespace fastgpu {
namespace {

constexpr std::size_t kCount = 200'003;  // with four lanes each has more than the crew's least

// The algorithm is given, for choices follow what was measured, and that is never the same twice.
Options crew_options(int threads, const char* lanes, const char* transport = "auto") {
  Options options = options_of("ring", transport);
  options.engine_threads = threads;
  set_field(options, "lanes", lanes);
  return options;
}

// Values whose sum depends on its order.
float value_of(int rank, std::size_t index) {
  const auto mixed =
      static_cast<uint32_t>(index * 2654435761U + static_cast<std::size_t>(rank) * 97U);
  return static_cast<float>(mixed % 100'003) * 1e-3F;
}

// What an all_reduce leaves on every rank, one after the other.
std::vector<float> sums(int world, const Options& options, bool symmetric) {
  std::vector<float> all(static_cast<std::size_t>(world) * kCount);
  with_own_engines(world, options, [&](Communicator& communicator, Process& process) {
    std::vector<float> mine(symmetric ? 0 : kCount);
    std::byte* memory = symmetric ? process.heap().allocate(kCount * sizeof(float))
                                  : reinterpret_cast<std::byte*>(mine.data());
    auto* const values = reinterpret_cast<float*>(memory);
    for (int round = 0; round < 3; ++round) {
      for (std::size_t i = 0; i < kCount; ++i) values[i] = value_of(communicator.rank(), i);
      CollectiveCall call = all_reduce_of({values, kCount});
      call.synchronous = round != 1;
      communicator.wait(*communicator.run(call), -1);
    }
    std::memcpy(&all[static_cast<std::size_t>(communicator.rank()) * kCount], values,
                kCount * sizeof(float));
    if (symmetric) process.heap().free(memory);
  });
  return all;
}

TEST(more_engine_threads_give_the_same_bits) {
  for (const bool symmetric : {false, true}) {
    for (const char* transport : {"auto", "tcp"}) {
      if (symmetric && std::string(transport) == "tcp") continue;
      for (const char* lanes : {"2", "4"}) {
        const std::vector<float> one = sums(3, crew_options(1, lanes, transport), symmetric);
        for (const int threads : {2, 4}) {
          const auto more = sums(3, crew_options(threads, lanes, transport), symmetric);
          CHECK(std::memcmp(one.data(), more.data(), one.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST(ranks_may_have_crews_of_different_sizes) {
  MemoryStore store;
  with_threads(3, [&](int rank) {
    Process process;
    const auto communicator =
        join_world(rank, 3, crew_options(1 + 7 * rank, "auto"), store, process);
    for (const std::size_t count : {std::size_t{0}, std::size_t{7}, kCount, 5 * kCount}) {
      check_all_reduce(*communicator, count);
    }
    communicator->shutdown();
  });
}

TEST(operations_stay_in_order_beside_a_crew) {
  with_own_engines(2, crew_options(4, "4"), [](Communicator& communicator, Process&) {
    std::vector<std::vector<float>> buffers(40);
    std::vector<std::shared_ptr<Work>> works;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      buffers[i].assign(i % 3 == 0 ? 10 : kCount / 2, static_cast<float>(i));
      CollectiveCall call = all_reduce_of(buffers[i]);
      call.synchronous = false;
      works.push_back(communicator.run(std::move(call)));
    }
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      communicator.wait(*works[i], -1);
      CHECK_EQ(buffers[i].back(), 2 * static_cast<float>(i));
    }
  });
}

TEST(a_mismatch_beside_a_crew_names_both_calls) {
  with_own_engines(2, crew_options(4, "4"), [](Communicator& communicator, Process&) {
    std::vector<float> values(communicator.rank() == 0 ? kCount : kCount + 64);
    const auto all_reduce = [&] {
      communicator.wait(*communicator.run(all_reduce_of(values)), -1);
    };
    CHECK_THROWS(all_reduce(), CollectiveMismatchError, "count=200003");
    CHECK_THROWS(all_reduce(), CollectiveMismatchError, "count=200067");
  });
}

TEST(a_time_out_beside_a_crew_names_who_is_missing) {
  with_own_engines(2, crew_options(2, "2"), [](Communicator& communicator, Process&) {
    check_all_reduce(communicator, kCount);
    if (communicator.rank() == 1) {
      while (communicator.failure() == nullptr) std::this_thread::yield();
      return;
    }
    std::vector<float> values(kCount);
    CollectiveCall call = all_reduce_of(values);
    call.timeout_ms = 100;
    const auto work = communicator.run(std::move(call));
    CHECK_THROWS(communicator.wait(*work, -1), CollectiveTimeoutError, "rank 1");
  });
}

TEST(a_rank_that_leaves_a_crew_is_named) {
  for (const char* transport : {"auto", "tcp"}) {
    with_own_engines(2, crew_options(2, "4", transport), [](Communicator& communicator, Process&) {
      check_all_reduce(communicator, kCount);
      if (communicator.rank() == 1) return;
      std::vector<float> values(kCount);
      const auto work = communicator.run(all_reduce_of(values));
      CHECK_THROWS(communicator.wait(*work, -1), PeerLostError, "has left the group");
    });
  }
}

// In the middle of it, or nearly. Who has heard of the other's end before its call is refused, so
// each waits for the other's call, and for its end.
TEST(abort_ends_what_a_crew_is_at) {
  std::atomic<int> called{0};
  std::atomic<int> ended{0};
  const auto meet = [](std::atomic<int>& ranks) {
    for (ranks.fetch_add(1); ranks.load() < 2;) std::this_thread::yield();
  };
  with_own_engines(2, crew_options(3, "4"), [&](Communicator& communicator, Process&) {
    std::vector<float> values(20 * kCount);
    CollectiveCall call = all_reduce_of(values);
    call.synchronous = false;
    const auto work = communicator.run(std::move(call));
    meet(called);
    if (communicator.rank() == 0) {
      communicator.abort("for the test");
      CHECK(work->done());
    }
    work->sleep_until_done(now_ns() + 20 * kSecond);
    CHECK(work->done());
    if (!work->ok()) CHECK(work->failure().kind == ErrorKind::kAborted);
    meet(ended);
  });
}

// Tells on which processors it ran.
struct Asked final : Crew::Task {
  void help(std::size_t) noexcept override {
    if (there.load()) return;
    cpus = available_cores();
    there.store(true);
  }
  std::vector<int> cpus;
  std::atomic<bool> there{false};
};

TEST(a_pinned_rank_runs_in_its_share_with_all_its_threads) {
  const std::vector<int> given = available_cores();
  for (const Pin pin : {Pin::kCore, Pin::kNode}) {
    for (const int world : {1, 2, 3}) {
      Options options = crew_options(2, "2");
      options.pin = pin;
      with_own_engines(world, options, [&](Communicator& communicator, Process& process) {
        const Deal mine{.pin = pin, .local_rank = communicator.rank(), .local_world = world};
        const std::vector<int> expected = deal(mine, read_processors(given));
        CHECK(available_cores() == expected);
        Engine& engine = process.engine();
        Asked helper;
        while (!engine.begin()) std::this_thread::yield();
        process.crew().open(helper, 1);
        while (!helper.there.load()) std::this_thread::yield();
        process.crew().close();
        engine.release();
        CHECK(helper.cpus == expected);
        // The epilogue of what nobody waits for runs on the engine's thread.
        std::vector<float> values(kCount);
        std::vector<int> cpus;
        std::thread::id runner;
        CollectiveCall call = all_reduce_of(values);
        call.synchronous = false;
        call.epilogue = [&] {
          cpus = available_cores();
          runner = std::this_thread::get_id();
        };
        const auto work = communicator.run(std::move(call));
        while (!work->done()) std::this_thread::yield();
        CHECK(runner != std::this_thread::get_id());
        CHECK(cpus == expected);
      });
    }
  }
}

// As after a launcher's own binding: what differs already is left as it is.
TEST(ranks_that_were_bound_before_are_left_alone) {
  const std::vector<int> given = available_cores();
  if (given.size() < 2) return std::puts("     not tried: one processor"), void();
  MemoryStore store;
  with_threads(2, [&](int rank) {
    const std::vector<int> own{given[rank == 0 ? 1 : 0]};
    CHECK_EQ(bind_thread(::pthread_self(), own), 0);
    Process process;
    Options options;
    options.pin = Pin::kCore;
    const auto communicator = join_world(rank, 2, options, store, process);
    CHECK(available_cores() == own);
    check_all_reduce(*communicator, 1000);
    communicator->shutdown();
  });
}

// Counts who comes, until told that it is over.
struct Counted final : Crew::Task {
  void help(std::size_t seat) noexcept override {
    inside.fetch_add(1);
    seats.fetch_or(1U << seat);
    while (!over.load()) std::this_thread::yield();
    inside.fetch_sub(1);
  }
  std::atomic<int> inside{0};
  std::atomic<unsigned> seats{0};
  std::atomic<bool> over{false};
};

TEST(a_crew_wakes_comes_as_wanted_and_leaves) {
  for (const bool crowded : {false, true}) {
    Crew crew;
    crew.set_crowded(crowded);
    crew.grow(3);
    for (int round = 0; round < 50; ++round) {
      // By then some are asleep, and in the first rounds some have not started.
      if (round % 10 == 9) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      Counted task;
      const int wanted = round % 4;
      crew.open(task, wanted);
      while (task.inside.load() < wanted) std::this_thread::yield();
      task.over.store(true);
      crew.close();
      CHECK_EQ(task.inside.load(), 0);
      CHECK_EQ(task.seats.load(), (2U << static_cast<unsigned>(wanted)) - 2);
    }
  }
}

TEST(a_task_that_nobody_came_to_is_closed_at_once) {
  Crew crew;
  Counted task;
  crew.open(task, 3);
  crew.close();
  CHECK_EQ(task.seats.load(), 0U);
}

}  // namespace
}  // namespace fastgpu
