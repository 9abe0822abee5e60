// Ranks as threads of one process, for tests of whole communicators. Threading: each call by one
// test at a time.
#pragma once

#include <exception>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "check.h"
#include "comm/communicator.h"
#include "comm/runtime.h"
#include "comm/store.h"

namespace fastgpu {

inline std::shared_ptr<Communicator> join_world(int rank, int world, const Options& options,
                                                Store& store, Runtime& runtime) {
  CommunicatorConfig config;
  config.rank = rank;
  config.world = world;
  config.name = "test";
  config.options = options;
  config.timeout_ms = 20'000;
  return Communicator::create(config, store, runtime);
}

// Runs `body(rank)` for every rank of a world, each a thread; the first exception is rethrown.
template <typename Body>
void with_threads(int world, Body body) {
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(world));
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(rank);
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

// A world of ranks with one engine for all. One rank runs it at a time.
template <typename Body>
void with_world(int world, const Options& options, Body body) {
  Runtime runtime;
  MemoryStore store;
  with_threads(world, [&](int rank) {
    const auto communicator = join_world(rank, world, options, store, runtime);
    if constexpr (std::is_invocable_v<Body, Communicator&, Runtime&>) {
      body(*communicator, runtime);
    } else {
      body(*communicator);
    }
    communicator->shutdown();
  });
}

// A world of ranks with an engine and a heap for each, as in separate processes.
template <typename Body>
void with_own_engines(int world, const Options& options, Body body) {
  MemoryStore store;
  with_threads(world, [&](int rank) {
    Runtime runtime;
    const auto communicator = join_world(rank, world, options, store, runtime);
    body(*communicator, runtime);
    communicator->shutdown();
  });
}

inline CollectiveCall all_reduce_of(std::span<float> values) {
  CollectiveCall call;
  call.shape.collective = Collective::kAllReduce;
  call.shape.dtype = DType::kFloat32;
  call.shape.count = values.size();
  call.data = reinterpret_cast<std::byte*>(values.data());
  return call;
}

inline void check_all_reduce(Communicator& communicator, std::size_t count) {
  std::vector<float> values(count);
  const auto n = static_cast<float>(communicator.world());
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(communicator.rank()) + static_cast<float>(i % 100);
  }
  communicator.wait(*communicator.run(all_reduce_of(values)), -1);
  for (std::size_t i = 0; i < count; ++i) {
    CHECK_EQ(values[i], n * (n - 1) / 2 + n * static_cast<float>(i % 100));
  }
}

inline Options options_of(const char* algorithm, const char* transport) {
  Options options;
  set_field(options, "algorithm", algorithm);
  set_field(options, "transport", transport);
  return options;
}

}  // namespace fastgpu
