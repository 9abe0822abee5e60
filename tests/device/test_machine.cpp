// The machine itself: threads, blocks, streams, events and repeatable runs.
#include <array>
#include <thread>
#include <vector>

#include "check.h"
#include "kernels/cuda/packs.h"
#include "simt_machine.h"

namespace fastgpu::test {
namespace {

using simt::Grid;
using simt::Machine;
using simt::Stream;

constexpr unsigned kBlockThreads = 64;

// Reverses the block's part of `numbers` through shared memory.
FASTGPU_KERNEL reverse(uint32_t* numbers) {
  struct Numbers {
    uint32_t at[kBlockThreads];
  };
  FASTGPU_SHARED(Numbers, shared);
  uint32_t* const mine = numbers + std::size_t{simt::block_index()} * simt::block_size();
  shared.at[simt::thread_index()] = mine[simt::thread_index()];
  simt::sync_block();
  mine[simt::thread_index()] = shared.at[simt::block_size() - 1 - simt::thread_index()];
}

FASTGPU_KERNEL sum_of_warp(uint32_t* sums) {
  uint32_t sum = simt::thread_index();
  for (unsigned mask = simt::kWarpSize / 2; mask > 0; mask /= 2) {
    sum += simt::shuffle_xor(sum, mask);
  }
  sums[simt::thread_index()] = sum;
}

FASTGPU_KERNEL post(uint64_t* word, uint64_t* payload, uint64_t value) {
  payload[simt::thread_index()] = value;
  simt::sync_block();
  if (simt::thread_index() == 0) simt::store_release(word, value);
}

FASTGPU_KERNEL take(const uint64_t* word, const uint64_t* payload, uint64_t* taken,
                    uint64_t value) {
  if (simt::thread_index() == 0) {
    while (simt::load_relaxed(word) != value) simt::pause();
    simt::load_acquire(word);
  }
  simt::sync_block();
  taken[simt::thread_index()] = payload[simt::thread_index()];
}

}  // namespace

TEST(threads_of_a_block_share_memory) {
  Machine machine({.seed = 3});
  Stream* const stream = machine.make_stream(0);
  std::array<uint32_t, std::size_t{3} * kBlockThreads> numbers{};
  for (uint32_t i = 0; i < numbers.size(); ++i) numbers[i] = i;
  machine.launch(stream, {.blocks = 3, .threads = kBlockThreads}, [&] { reverse(numbers.data()); });
  machine.synchronize(stream);
  for (uint32_t i = 0; i < numbers.size(); ++i) {
    CHECK_EQ(numbers[i], i / kBlockThreads * kBlockThreads + kBlockThreads - 1 - i % kBlockThreads);
  }
}

TEST(a_warp_exchanges_values) {
  Machine machine({.seed = 4});
  Stream* const stream = machine.make_stream(0);
  std::array<uint32_t, 64> sums{};
  machine.launch(stream, {.threads = 64}, [&] { sum_of_warp(sums.data()); });
  machine.synchronize(stream);
  for (uint32_t i = 0; i < 64; ++i) CHECK_EQ(sums[i], i < 32 ? 496u : 496u + 32 * 32);
}

TEST(a_released_word_carries_data_between_gpus) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    Machine machine({.seed = seed, .slow_stream = true});
    Stream* const sender = machine.make_stream(0);
    Stream* const receiver = machine.make_stream(1);
    uint64_t word = 0;
    std::array<uint64_t, 32> payload{};
    std::array<uint64_t, 32> taken{};
    machine.launch(receiver, {}, [&] { take(&word, payload.data(), taken.data(), 7); });
    machine.launch(sender, {}, [&] { post(&word, payload.data(), 7); });
    machine.synchronize(receiver);
    machine.synchronize(sender);
    for (const uint64_t value : taken) CHECK_EQ(value, 7u);
  }
}

TEST(kernels_of_two_host_threads_run_at_the_same_time) {
  uint64_t word = 0;
  std::array<uint64_t, 32> payload{};
  std::array<uint64_t, 32> taken{};
  for (uint64_t value = 1; value <= 20; ++value) {
    std::thread receiver([&] {
      simt::run_kernel({}, value, [&] { take(&word, payload.data(), taken.data(), value); });
    });
    Machine machine({});  // of this thread; kernels in real time leave it alone
    Stream* const stream = machine.make_stream(0);
    simt::run_kernel({}, value, [&] { post(&word, payload.data(), value); });
    receiver.join();
    for (const uint64_t each : taken) CHECK_EQ(each, value);
    machine.launch(stream, {}, [&] { post(&word, payload.data(), 0); });
    machine.synchronize(stream);
  }
}

TEST(kernels_in_real_time_count_nanoseconds) {
  uint64_t waited = 0;
  simt::run_kernel({.threads = 1}, 1, [&] {
    const uint64_t begun = simt::now();
    while (simt::now() - begun < 2'000'000) simt::pause();
    waited = simt::now() - begun;
  });
  CHECK(waited >= 2'000'000 && waited < 10'000'000'000);
}

TEST(streams_wait_for_events) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    Machine machine({.seed = seed});
    Stream* const first = machine.make_stream(0);
    Stream* const second = machine.make_stream(0);
    simt::Event* const written = machine.make_event();
    int value = 0;
    int seen = 0;
    CHECK(machine.passed(written));  // nothing was recorded
    machine.call(first, [&] { value = 5; });
    machine.record(first, written);
    CHECK(!machine.passed(written));
    machine.wait(second, written);
    machine.call(second, [&] { seen = value; });
    machine.synchronize(second);
    CHECK(machine.passed(written));
    CHECK_EQ(seen, 5);
  }
}

TEST(blocks_wait_for_room_on_the_gpu) {
  Machine machine({.seed = 5, .resident_blocks = 2});
  Stream* const stream = machine.make_stream(0);
  uint64_t running = 0;
  uint64_t most = 0;
  machine.launch(stream, {.blocks = 6, .threads = 1}, [&] {
    const uint64_t now = simt::load_relaxed(&running) + 1;
    simt::store_relaxed(&running, now);
    if (now > simt::load_relaxed(&most)) simt::store_relaxed(&most, now);
    simt::pause();
    simt::store_relaxed(&running, simt::load_relaxed(&running) - 1);
  });
  machine.synchronize(stream);
  CHECK(most >= 1 && most <= 2);
}

TEST(a_seed_repeats_a_run) {
  const auto order_of = [](uint64_t seed) {
    uint64_t next = 0;
    std::vector<uint64_t> places(8);
    Machine machine({.seed = seed});
    std::vector<Stream*> streams;
    for (int i = 0; i < 8; ++i) {
      streams.push_back(machine.make_stream(i));
      machine.call(streams.back(), [&next, &place = places[static_cast<std::size_t>(i)]] {
        place = simt::load_relaxed(&next);
        simt::store_relaxed(&next, place + 1);
      });
    }
    machine.run(5);
    for (Stream* stream : streams) machine.synchronize(stream);
    return places;
  };
  CHECK(order_of(6) == order_of(6));
  CHECK(order_of(6) != order_of(7));
}

}  // namespace fastgpu::test
