// Ranks as threads of one process, over real rings and sockets: the communicator end to end.
#include <sched.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "sim/rank_threads.h"
#include "sim/schedule_cases.h"

namespace fastgpu {
namespace {

TEST(all_reduce_by_every_algorithm_and_transport) {
  for (const char* transport : {"auto", "tcp"}) {
    for (const char* algorithm : {"auto", "direct", "ring", "tree", "halving", "hierarchical"}) {
      for (const int world : {1, 2, 3, 4}) {
        if (test::kStride != 1 && world % 2 != 0) continue;  // a sanitizer takes ten times as long
        with_world(world, options_of(algorithm, transport), [](Communicator& communicator) {
          for (const std::size_t count : {0, 1, 7, 1000, 100'000}) {
            check_all_reduce(communicator, count);
          }
        });
      }
    }
  }
}

// Reduces (rank + 1) * (i % 10) with AVG, and checks the result where there is one.
void check_average(Communicator& communicator, Collective collective, std::size_t count) {
  const auto world = static_cast<std::size_t>(communicator.world());
  const bool scatters = collective == Collective::kReduceScatter;
  const auto value = [](std::size_t rank, std::size_t i) {
    return static_cast<float>((rank + 1) * (i % 10));
  };
  std::vector<float> input(count * (scatters ? world : 1));
  const auto rank = static_cast<std::size_t>(communicator.rank());
  for (std::size_t i = 0; i < input.size(); ++i) input[i] = value(rank, i);
  std::vector<float> data(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(count));
  CollectiveCall call = all_reduce_of(data);
  call.shape.collective = collective;
  call.shape.reduce_op = ReduceOp::kAvg;
  call.shape.root = communicator.world() - 1;
  if (collective != Collective::kAllReduce) {
    call.input = reinterpret_cast<const std::byte*>(input.data());
  }
  communicator.wait(*communicator.run(std::move(call)), -1);
  if (collective == Collective::kReduce && rank + 1 != world) return;
  for (std::size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (std::size_t other = 0; other < world; ++other) {
      sum += value(other, i + (scatters ? rank * count : 0));
    }
    CHECK_EQ(data[i], sum * static_cast<float>(1.0 / static_cast<double>(world)));
  }
}

TEST(averages_by_every_algorithm_and_transport) {
  for (const char* transport : {"auto", "tcp"}) {
    for (const char* algorithm : {"direct", "ring", "tree", "halving", "hierarchical"}) {
      for (const int world : {1, 2, 3, 4}) {
        if (test::kStride != 1 && world % 2 != 0) continue;  // a sanitizer takes ten times as long
        with_world(world, options_of(algorithm, transport), [](Communicator& communicator) {
          for (const std::size_t count : {1, 1000, 30'000}) {
            for (const Collective collective :
                 {Collective::kAllReduce, Collective::kReduce, Collective::kReduceScatter}) {
              check_average(communicator, collective, count);
            }
          }
        });
      }
    }
  }
}

// A caller that runs one small call after another itself must leave time for the engine's other
// work: here a large operation of another group.
TEST(small_calls_do_not_hold_up_another_group) {
  constexpr int kMostCalls = 1'000'000;
  MemoryStore store;
  MemoryStore others;  // the other group's: keys of two groups in one store would clash
  const auto be_rank = [&store, &others](int rank) {
    Runtime runtime;
    CommunicatorConfig config;
    config.rank = rank;
    config.world = 2;
    config.timeout_ms = 20'000;
    config.name = "small";
    const auto small = Communicator::create(config, store, runtime);
    config.name = "large";
    const auto large = Communicator::create(config, others, runtime);
    std::vector<float> many(1'000'000, 1.0F);
    CollectiveCall call = all_reduce_of(many);
    call.synchronous = false;
    const std::shared_ptr<Work> work = large->run(call);
    int calls = 0;
    for (float done = 0; done < 2 && calls < kMostCalls; ++calls) {
      done = work->done() ? 1.0F : 0.0F;
      small->wait(*small->run(all_reduce_of({&done, 1})), -1);
    }
    const bool in_time = work->done();
    large->wait(*work, -1);
    small->shutdown();
    large->shutdown();
    return in_time && many.front() == 2 && many.back() == 2;
  };
  bool other_in_time = false;
  std::thread other([&] { other_in_time = be_rank(1); });
  const bool in_time = be_rank(0);
  other.join();
  CHECK(in_time && other_in_time);
}

TEST(all_reduce_in_symmetric_memory) {
  for (const Algorithm algorithm :
       {Algorithm::kRing, Algorithm::kDirect, Algorithm::kTree, Algorithm::kHalving}) {
    for (const int world : {2, 3, 4}) {
      Options options;
      options.algorithm = algorithm;
      options.lanes = world == 3 ? 2 : 0;
      with_world(world, options, [&](Communicator& communicator, Runtime& runtime) {
        for (const std::size_t count : {1000, 40'000, 300'000}) {
          auto* values = reinterpret_cast<float*>(runtime.heap().allocate(count * sizeof(float)));
          for (int round = 0; round < 3; ++round) {
            for (std::size_t i = 0; i < count; ++i) {
              values[i] =
                  static_cast<float>(communicator.rank() + round) + static_cast<float>(i % 100);
            }
            communicator.wait(*communicator.run(all_reduce_of({values, count})), -1);
            const auto n = static_cast<float>(world);
            for (std::size_t i = 0; i < count; ++i) {
              const float expected =
                  n * static_cast<float>(i % 100) + n * (n - 1) / 2 + n * static_cast<float>(round);
              if (values[i] != expected) {
                CHECK_EQ(std::to_string(i) + ": " + std::to_string(values[i]),
                         std::to_string(expected));
              }
            }
          }
          runtime.heap().free(reinterpret_cast<std::byte*>(values));
        }
      });
    }
  }
}

// Large broadcasts of three ranks and more are staged in scratch memory that all can read.
TEST(broadcast_by_every_algorithm_from_either_end) {
  for (const Algorithm algorithm :
       {Algorithm::kAuto, Algorithm::kDirect, Algorithm::kTree, Algorithm::kRing}) {
    for (const int world : {2, 3, 4}) {
      Options options;
      options.algorithm = algorithm;
      options.lanes = world == 3 ? 2 : 0;
      with_world(world, options, [&](Communicator& communicator, Runtime& runtime) {
        for (const std::size_t count : {1000, 40'000, 300'001}) {
          std::vector<float> own(count);
          auto* shared = reinterpret_cast<float*>(runtime.heap().allocate(count * sizeof(float)));
          std::vector<float> numbers(count + static_cast<std::size_t>(world));
          std::iota(numbers.begin(), numbers.end(), 0.0F);  // a rank's begin with its own
          for (float* values : {own.data(), shared}) {
            for (const int root : {0, world - 1}) {
              std::memcpy(values, &numbers[static_cast<std::size_t>(communicator.rank())],
                          count * sizeof(float));
              CollectiveCall call = all_reduce_of({values, count});
              call.shape.collective = Collective::kBroadcast;
              call.shape.root = root;
              communicator.wait(*communicator.run(std::move(call)), -1);
              CHECK(std::memcmp(values, &numbers[static_cast<std::size_t>(root)],
                                count * sizeof(float)) == 0);
            }
          }
          runtime.heap().free(reinterpret_cast<std::byte*>(shared));
        }
      });
    }
  }
}

TEST(a_failure_revokes_symmetric_memory) {
  with_world(2, {}, [](Communicator& communicator, Runtime& runtime) {
    constexpr std::size_t kCount = 100'000;
    std::byte* memory = runtime.heap().allocate(kCount * sizeof(float));
    CollectiveCall call = all_reduce_of({reinterpret_cast<float*>(memory), kCount});
    communicator.wait(*communicator.run(call), -1);
    CHECK(runtime.heap().find(memory, 1).has_value());
    if (communicator.rank() == 0) {
      call.timeout_ms = 100;
      const auto work = communicator.run(call);
      CHECK_THROWS(communicator.wait(*work, -1), CollectiveTimeoutError,
                   "Timed out after 100 ms: ");
      CHECK(!runtime.heap().find(memory, 1).has_value());
    } else {
      while (communicator.failure() == nullptr) std::this_thread::yield();
    }
    runtime.heap().free(memory);
  });
}

// The peer writes a reply of another group into revoked memory. It must not count as a sum.
TEST(a_reply_to_revoked_memory_does_not_count) {
  MemoryStore others;
  with_world(2, {}, [&others](Communicator& failing, Runtime& runtime) {
    CommunicatorConfig config;
    config.rank = failing.rank();
    config.world = 2;
    config.name = "other";
    config.options.algorithm = Algorithm::kRing;
    config.timeout_ms = 20'000;
    const auto other = Communicator::create(config, others, runtime);
    constexpr std::size_t kCount = 100'000;
    std::byte* memory = runtime.heap().allocate(2 * kCount * sizeof(float));
    float* const values = reinterpret_cast<float*>(memory);
    CollectiveCall pending = all_reduce_of({values, kCount});
    other->wait(*other->run(pending), -1);
    failing.wait(*failing.run(CollectiveCall{}), -1);  // a barrier
    if (failing.rank() == 0) {
      pending.synchronous = false;
      const auto work = other->run(pending);
      CollectiveCall late = all_reduce_of({values + kCount, kCount});
      late.timeout_ms = 100;
      CHECK_THROWS(failing.wait(*failing.run(late), -1), CollectiveTimeoutError,
                   "Timed out after 100 ms: ");
      CHECK_THROWS(other->wait(*work, -1), AbortedError, "revoked");
    } else {
      while (failing.failure() == nullptr) std::this_thread::yield();
      pending.synchronous = false;
      const auto work = other->run(pending);
      work->sleep_until_done(now_ns() + 60 * kSecond);
      // It fails, too, unless it was done before rank 0 saw.
      CHECK(work->done() && (work->ok() || work->failure().kind == ErrorKind::kAborted));
    }
    runtime.heap().free(memory);
    other->shutdown();
  });
}

// A small operation is kept for the next call, but not what its caller gave it.
TEST(a_done_operation_lets_go_of_its_callers_memory) {
  with_world(2, Options{}, [](Communicator& communicator) {
    for (const bool synchronous : {true, false}) {
      const auto memory = std::make_shared<std::vector<float>>(10, 1.0F);
      CollectiveCall call = all_reduce_of(*memory);
      call.synchronous = synchronous;
      call.prologue = [memory] { memory->at(0) = 2; };
      call.epilogue = [memory] { memory->at(1) = 3; };
      call.keep_alive = memory;
      const auto work = communicator.run(std::move(call));
      communicator.wait(*work, -1);
      CHECK_EQ(memory->at(0), 4.0F);
      CHECK_EQ(memory->at(1), 3.0F);
      CHECK_EQ(memory.use_count(), 1);
    }
  });
}

TEST(many_asynchronous_operations_stay_in_order) {
  with_world(3, Options{}, [](Communicator& communicator) {
    std::vector<std::vector<float>> buffers(200, std::vector<float>(777));
    std::vector<std::shared_ptr<Work>> works;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      buffers[i].assign(777, static_cast<float>(i));
      CollectiveCall call = all_reduce_of(buffers[i]);
      call.synchronous = false;
      works.push_back(communicator.run(std::move(call)));
    }
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      communicator.wait(*works[i], -1);
      CHECK_EQ(buffers[i][776], 3 * static_cast<float>(i));
    }
  });
}

// Rank 1 calls nothing before it has heard from rank 0, which has called everything by then.
TEST(a_caller_never_waits_for_room_in_the_queue) {
  constexpr std::size_t kCalls = 70'000;
  with_world(2, Options{}, [](Communicator& communicator) {
    std::byte token{};
    MessageCall message;
    message.peer = 1 - communicator.rank();
    message.data = &token;
    message.size_bytes = 1;
    if (communicator.rank() == 1) communicator.wait(*communicator.recv(message), -1);
    std::vector<float> values(kCalls, 1.0F);
    std::vector<std::shared_ptr<Work>> works;
    for (float& value : values) {
      CollectiveCall call = all_reduce_of({&value, 1});
      call.synchronous = false;
      works.push_back(communicator.run(std::move(call)));
    }
    if (communicator.rank() == 0) communicator.wait(*communicator.send(message), -1);
    for (const auto& work : works) communicator.wait(*work, -1);
    CHECK_EQ(values.front() + values.back(), 4.0F);
  });
}

TEST(messages_match_by_peer_and_tag) {
  with_world(2, Options{}, [](Communicator& communicator) {
    const bool first = communicator.rank() == 0;
    std::vector<std::vector<char>> small(3, std::vector<char>(100));
    std::vector<char> large(3 << 20);
    const auto message = [&](std::vector<char>& data, uint32_t tag) {
      MessageCall call;
      call.peer = first ? 1 : 0;
      call.tag = tag;
      call.data = reinterpret_cast<std::byte*>(data.data());
      call.size_bytes = data.size();
      call.synchronous = false;
      return call;
    };
    std::vector<std::shared_ptr<Work>> works;
    if (first) {
      for (std::size_t i = 0; i < 3; ++i) {
        small[i].assign(100, static_cast<char>('a' + i));
        works.push_back(communicator.send(message(small[i], static_cast<uint32_t>(i))));
      }
      large.assign(large.size(), 'z');
      works.push_back(communicator.send(message(large, 9)));
    } else {
      works.push_back(communicator.recv(message(large, 9)));
      for (const std::size_t i : {2, 0, 1}) {
        works.push_back(communicator.recv(message(small[i], static_cast<uint32_t>(i))));
      }
    }
    for (const auto& work : works) communicator.wait(*work, -1);
    for (std::size_t i = 0; i < 3; ++i) CHECK_EQ(small[i][99], static_cast<char>('a' + i));
    CHECK_EQ(large.back(), 'z');
  });
}

// Both ranks may use one core only, as where a launcher has bound them.
TEST(an_engine_is_oversubscribed_as_long_as_a_communicator_makes_it_so) {
  MemoryStore store;
  with_threads(2, [&](int rank) {
    Runtime runtime;
    cpu_set_t all;
    CHECK_EQ(::sched_getaffinity(0, sizeof all, &all), 0);
    int first = 0;
    while (!CPU_ISSET(first, &all)) ++first;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    CHECK_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
    const auto communicator = join_world(rank, 2, Options{}, store, runtime);
    CHECK(runtime.engine().oversubscribed());
    check_all_reduce(*communicator, 10);
    communicator->shutdown();
    CHECK(!runtime.engine().oversubscribed());
    communicator->shutdown();  // changes nothing
    CHECK(!runtime.engine().oversubscribed());
  });
}

TEST(set_up_calls_do_not_count) {
  with_own_engines(2, Options{}, [](Communicator& communicator, Runtime&) {
    const Counters counters = communicator.counters();
    CHECK_EQ(counters.operations, 0U);
    CHECK_EQ(counters.bytes_sent, 0U);
    CHECK_EQ(counters.bytes_received, 0U);
    check_all_reduce(communicator, 10);
    CHECK_EQ(communicator.counters().operations, 1U);
    CHECK_EQ(communicator.sequence(), 1U);
  });
}

}  // namespace
}  // namespace fastgpu
