// Which thread runs the engine, and when: a caller, a waiter, or the engine's own. The work that it
// polls only counts.
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "check.h"
#include "engine/engine.h"
#include "patience.h"

namespace fastgpu {
namespace {

// So long that a busy machine rarely keeps a thread from running for half of it.
constexpr TimeNs kTakeoverDelay = 100 * kMillisecond;

// Pending until finish(); the test says what a poll does.
struct Chore : Pollable {
  explicit Chore(std::function<bool()> what) : on_poll(std::move(what)) {}
  bool poll() noexcept override {
    polls.fetch_add(1);
    return on_poll();
  }
  bool busy() const noexcept override { return pending.load(); }
  void expire(TimeNs) noexcept override { looks_at_time.fetch_add(1); }
  TimeNs next_deadline() const noexcept override { return kNever; }
  void finish() {
    pending.store(false);
    work.complete();
  }

  const std::function<bool()> on_poll;
  std::atomic<bool> pending{true};
  std::atomic<int> polls{0};
  std::atomic<int> looks_at_time{0};
  Work work;
};

TEST(time_outs_are_looked_at_while_others_move) {
  Engine engine(EngineConfig{.background = false});
  const auto frozen = std::make_shared<Chore>([] { return false; });
  std::shared_ptr<Chore> steady;
  steady = std::make_shared<Chore>([&steady] {
    if (steady->polls.load() == 10'000) steady->finish();
    return true;
  });
  engine.add(frozen);
  engine.add(steady);
  CHECK(engine.run_inline(true, [&](int) { return &steady->work; }));
  CHECK(frozen->looks_at_time.load() > 0);
  CHECK(frozen->looks_at_time.load() < 100);  // it costs a look at the clock
}

TEST(the_background_finishes_what_its_caller_left) {
  for (const int cores : {1, 2}) {
    Engine engine;
    engine.share_machine({.ranks = 1, .cores = cores});
    std::shared_ptr<Chore> chore;
    chore = std::make_shared<Chore>([&chore] {
      if (chore->polls.load() == 5) chore->finish();
      return true;
    });
    engine.add(chore);
    engine.submit(Submission::kSmall);
    chore->work.sleep_until_done(now_ns() + test::kPatience);  // does not help
    CHECK(chore->work.done());
    engine.remove(chore.get());
  }
}

TEST(a_caller_runs_small_work_once_and_leaves_the_rest) {
  Engine engine(EngineConfig{.takeover_delay_ns = test::kPatience});
  const auto chore = std::make_shared<Chore>([] { return true; });
  engine.add(chore);
  engine.submit(Submission::kSmall);
  CHECK_EQ(chore->polls.load(), 1);
  chore->finish();
  engine.remove(chore.get());
}

// Runs the engine again and again for three takeover delays. False if this thread itself did not
// get a core for so long that the background had a reason to take over.
bool submit_without_a_pause(Engine& engine) {
  TimeNs last = now_ns();
  for (const TimeNs end = last + 3 * kTakeoverDelay; last < end;) {
    engine.submit(Submission::kSmall);
    const TimeNs now = now_ns();
    if (now - last > kTakeoverDelay / 2) return false;
    last = now;
  }
  return true;
}

TEST(the_background_takes_over_only_when_the_caller_stops) {
  constexpr int kAttempts = 50;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Engine engine(EngineConfig{.takeover_delay_ns = kTakeoverDelay});
    std::atomic<bool> by_others{false};
    const auto caller = std::this_thread::get_id();
    const auto chore = std::make_shared<Chore>([&] {
      if (std::this_thread::get_id() != caller) by_others.store(true);
      return true;
    });
    engine.add(chore);
    const bool without_a_pause = submit_without_a_pause(engine);
    const bool taken_while_running = by_others.load();
    const bool taken_after_the_stop = test::comes_true([&] { return by_others.load(); });
    chore->finish();
    engine.remove(chore.get());
    CHECK(taken_after_the_stop);
    if (!without_a_pause) continue;
    CHECK(!taken_while_running);
    return;
  }
  test::fail(__FILE__, __LINE__, "this thread never got a core for 300 ms without a long pause");
}

TEST(an_operation_that_cannot_enter_leaves_the_engine_free) {
  Engine engine(EngineConfig{.background = false});
  const auto refuse = [](int) -> const Work* { raise(ErrorKind::kAborted, "refused"); };
  CHECK_THROWS(engine.run_inline(true, refuse), AbortedError, "refused");
  bool entered = false;
  CHECK(engine.run_inline(true, [&](int) -> const Work* {
    CHECK(!engine.run_inline(true, refuse));  // the lock is held: nothing is done
    entered = true;
    return nullptr;
  }));
  CHECK(entered);
}

TEST(a_caller_polls_alone_for_longer_where_it_has_a_core_to_itself) {
  Engine engine(EngineConfig{.background = false});
  const auto polls = [&engine] {
    int most = 0;
    CHECK(engine.run_inline(true, [&](int allowed) -> const Work* {
      most = allowed;
      return nullptr;
    }));
    return most;
  };
  const int alone = polls();
  CHECK(alone > 1);
  engine.share_machine({.ranks = 3, .cores = 2});
  CHECK_EQ(polls(), 1);
  engine.unshare_machine({.ranks = 3, .cores = 2});
  CHECK_EQ(polls(), alone);
  int none = 0;
  for (int call = 0; call < 1000; ++call) none += polls() == 0 ? 1 : 0;
  CHECK(none > 0 && none < 100);  // now and then it runs the whole engine
}

TEST(spinning_returns_with_the_last_share_that_had_too_few_cores) {
  Engine engine;
  const MachineShare roomy{.ranks = 2, .cores = 2};
  const MachineShare oversubscribed{.ranks = 3, .cores = 2};
  for (const MachineShare& share : {roomy, oversubscribed, oversubscribed})
    engine.share_machine(share);
  CHECK(engine.oversubscribed());
  engine.unshare_machine(oversubscribed);
  CHECK(engine.oversubscribed());
  engine.unshare_machine(oversubscribed);
  CHECK(!engine.oversubscribed());
  engine.unshare_machine(roomy);
  CHECK(!engine.oversubscribed());
}

TEST(the_background_yields_to_a_waiter) {
  Engine engine(EngineConfig{.spin_ns = kMillisecond});
  std::atomic<std::thread::id> waiter{};
  std::shared_ptr<Chore> chore;
  chore = std::make_shared<Chore>([&] {
    if (std::this_thread::get_id() == waiter.load()) chore->finish();
    return true;
  });
  engine.add(chore);
  engine.submit(Submission::kSmall);
  CHECK(test::comes_true([&] { return chore->polls.load() > 100; }));  // it runs in the background
  waiter.store(std::this_thread::get_id());
  for (const TimeNs end = now_ns() + test::kPatience; !chore->work.done() && now_ns() < end;) {
    engine.wait(chore->work, now_ns() + 10 * kMillisecond);
  }
  CHECK(chore->work.done());
  engine.remove(chore.get());
}

TEST(work_announced_to_a_thread_that_leaves_is_not_lost) {
  Engine engine;
  engine.share_machine({.ranks = 1, .cores = 2});
  for (int round = 0; round < 300; ++round) {
    const auto one = std::make_shared<Chore>([] { return true; });
    const auto other = std::make_shared<Chore>([] { return true; });
    const auto set_up = [&](const std::shared_ptr<Chore>& chore) {
      chore->pending.store(false);
      engine.add(chore);
    };
    set_up(one);
    set_up(other);
    std::thread announcer;
    const auto enter = [&](int) {
      announcer = std::thread([&] {
        other->pending.store(true);
        engine.submit(Submission::kSmall);
      });
      one->finish();
      return &one->work;
    };
    CHECK(test::comes_true([&] { return engine.run_inline(true, enter); }));
    announcer.join();
    CHECK(test::comes_true([&] { return other->polls.load() > 2; }));
    other->finish();
    engine.remove(one.get());
    engine.remove(other.get());
  }
}

}  // namespace
}  // namespace fastgpu
