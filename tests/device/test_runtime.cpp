// The pretended runtime does what DeviceRuntime promises; device memory is found, shared and given
// back; without a GPU, CUDA says so.
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "device/cuda_runtime.h"
#include "device/heap.h"
#include "kernels/reduce.h"
#include "pretended_runtime.h"

namespace fastgpu::test {
namespace {

constexpr std::size_t kBytes = 4096;

std::vector<std::byte> pattern(std::size_t size_bytes, int seed) {
  std::vector<std::byte> bytes(size_bytes);
  for (std::size_t i = 0; i < size_bytes; ++i) {
    bytes[i] = static_cast<std::byte>(static_cast<std::size_t>(seed) * 37 + i * 11);
  }
  return bytes;
}

bool equal(const std::byte* memory, const std::vector<std::byte>& bytes) {
  return std::memcmp(memory, bytes.data(), bytes.size()) == 0;
}

void await(DeviceRuntime& runtime, EventHandle event) {
  while (!runtime.passed(event)) std::this_thread::yield();
}

TEST(streams_run_in_order_and_events_join_them) {
  const auto runtime = make_pretended_runtime({.devices = 2});
  const DeviceSegment near = runtime->allocate(0, kBytes);
  const DeviceSegment far = runtime->allocate(1, kBytes);
  std::byte* const pinned = runtime->allocate_pinned(kBytes);
  std::byte* const result = runtime->allocate_pinned(kBytes);
  const StreamHandle first = runtime->make_stream(0);
  const StreamHandle second = runtime->make_stream(1);
  const EventHandle event = runtime->make_event(0);
  const EventHandle end = runtime->make_event(1);
  CHECK(runtime->passed(event));  // it was never recorded
  for (int turn = 0; turn < 20; ++turn) {
    const auto bytes = pattern(kBytes, turn);
    std::memcpy(pinned, bytes.data(), kBytes);
    runtime->copy(first, near.base, pinned, kBytes);
    runtime->record(event, first);
    runtime->wait(second, event);
    runtime->copy(second, far.base, near.base, kBytes);
    runtime->copy(second, result, far.base, kBytes);
    runtime->record(end, second);
    await(*runtime, end);
    CHECK(runtime->passed(event));
    CHECK(equal(result, bytes));
  }
  for (const StreamHandle stream : {first, second}) runtime->destroy(stream);
  for (const EventHandle each : {event, end}) runtime->destroy(each);
  for (std::byte* memory : {pinned, result}) runtime->free_pinned(memory);
  for (const DeviceSegment& segment : {near, far}) runtime->free(segment);
}

TEST(recording_an_event_again_does_not_release_earlier_waits) {
  const auto runtime = make_pretended_runtime({.most_delay_us = 2000});
  const DeviceSegment memory = runtime->allocate(0, 3 * kBytes);
  const StreamHandle slow = runtime->make_stream(0);
  const StreamHandle fast = runtime->make_stream(0);
  const StreamHandle waiting = runtime->make_stream(0);
  const EventHandle event = runtime->make_event(0);
  std::memset(memory.base, 7, kBytes);
  for (int i = 0; i < 8; ++i) runtime->copy(slow, memory.base + kBytes, memory.base, kBytes);
  runtime->record(event, slow);
  runtime->wait(waiting, event);
  runtime->record(event, fast);
  runtime->copy(waiting, memory.base + 2 * kBytes, memory.base + kBytes, kBytes);
  runtime->synchronize(waiting);
  CHECK(equal(memory.base + 2 * kBytes, std::vector(kBytes, std::byte{7})));
  for (const StreamHandle stream : {slow, fast, waiting}) runtime->destroy(stream);
  runtime->destroy(event);
  runtime->free(memory);
}

TEST(a_reduction_has_the_bits_of_receives_on_the_cpu) {
  const auto runtime = make_pretended_runtime({});
  const StreamHandle stream = runtime->make_stream(0);
  const DeviceSegment memory = runtime->allocate(0, 4 * kBytes);
  std::vector<std::vector<std::byte>> values;
  for (int i = 0; i < 3; ++i) {
    values.push_back(pattern(kBytes, i));
    std::memcpy(memory.base + static_cast<std::size_t>(i) * kBytes, values.back().data(), kBytes);
  }
  auto expected = values[0];
  for (int i = 1; i < 3; ++i) {
    find_reduce(DType::kBFloat16, ReduceOp::kSum)(
        expected.data(), values[static_cast<std::size_t>(i)].data(), kBytes / 2);
  }
  scale(expected.data(), kBytes / 2, DType::kBFloat16, 1.0 / 3);
  const std::array<const std::byte*, 3> sources{memory.base, memory.base + kBytes,
                                                memory.base + 2 * kBytes};
  const std::array<std::byte*, 2> targets{memory.base, memory.base + 3 * kBytes};
  runtime->reduce(stream, {.sources = sources,
                           .targets = targets,
                           .size_bytes = kBytes,
                           .dtype = DType::kBFloat16,
                           .reduce_op = ReduceOp::kAvg,
                           .factor = 1.0 / 3});
  runtime->synchronize(stream);
  for (const std::byte* target : targets) CHECK(equal(target, expected));
  std::vector<std::byte> host(kBytes);
  CHECK_THROWS(runtime->copy(stream, memory.base, host.data(), kBytes), AbortedError,
               "not memory of a pretended device");
  runtime->destroy(stream);
  runtime->free(memory);
}

TEST(device_memory_is_found_shared_and_used_again) {
  const auto runtime = make_pretended_runtime({});
  DeviceHeap heap(*runtime, 0, kBytes);
  std::byte* const first = heap.allocate(100);
  std::byte* const second = heap.allocate(1);
  std::byte* const large = heap.allocate(3 * kBytes);
  CHECK_EQ(second - first, 512);
  CHECK_EQ(heap.find(second + 1, 7)->offset_bytes, uint64_t{513});
  CHECK_EQ(heap.find(large, 3 * kBytes)->segment, uint32_t{1});
  CHECK(!heap.find(large, 3 * kBytes + 1));
  std::array<std::byte, 8> host{};
  CHECK(!heap.find(host.data(), 8));
  heap.free(first);
  CHECK_EQ(heap.allocate(512), first);

  // A mapping of the peer's own.
  const SharedSegment shared = heap.share(0);
  void* const mapped =
      ::mmap(nullptr, shared.size_bytes, PROT_READ, MAP_SHARED, shared.fd.get(), 0);
  CHECK(mapped != MAP_FAILED);
  const auto bytes = pattern(512, 5);
  std::memcpy(second, bytes.data(), bytes.size());
  CHECK(equal(static_cast<std::byte*>(mapped) + 512, bytes));
  ::munmap(mapped, shared.size_bytes);

  PeerDeviceSegments peer(*runtime, 0);
  CHECK(peer.at({.segment = 0}, 1) == nullptr);
  peer.add(0, shared);
  CHECK(equal(peer.at({.segment = 0, .offset_bytes = 512}, 512), bytes));
  CHECK_THROWS(peer.at({.segment = 0, .offset_bytes = kBytes - 8}, 9), PeerLostError,
               "outside its device memory");
  CHECK_THROWS(heap.share(2), InvalidArgumentError, "no segment 2");
}

TEST(devices_of_several_runtimes_differ_unless_they_share_gpus) {
  const auto uuid = [](DeviceRuntime& runtime, int device) {
    return runtime.properties(device).uuid;
  };
  for (const bool shared : {false, true}) {
    const auto first = make_pretended_runtime({.devices = 2, .shared_gpu = shared});
    const auto second = make_pretended_runtime({.devices = 2, .shared_gpu = shared});
    CHECK(uuid(*first, 0) == uuid(*first, 0));
    CHECK(uuid(*first, 0) != uuid(*first, 1));
    CHECK_EQ(uuid(*first, 1) == uuid(*second, 1), shared);
  }
}

TEST(cuda_is_there_or_says_why_not) {
  const FoundRuntime& found = find_cuda_runtime();
  CHECK_EQ(found.runtime == nullptr, !found.why_not.empty());
  CHECK_EQ(&found, &find_cuda_runtime());
}

}  // namespace
}  // namespace fastgpu::test
