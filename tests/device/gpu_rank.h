// A rank of a communicator whose tensors are in the memory of a pretended GPU, as a thread of the
// test with a runtime of its own. Threading: each rank by its thread.
#pragma once

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "comm/group_device.h"
#include "pretended_kernels.h"
#include "pretended_runtime.h"
#include "sim/rank_threads.h"

namespace fastgpu::test {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitizer = true;
#else
inline constexpr bool kSanitizer = false;
#endif

// One rank's process: a GPU of its own, and a stream of the caller.
class GpuRank {
 public:
  GpuRank(const PretendedOptions& options, const Options& group, int rank, int world, Store& store)
      : devices_(make_pretended_runtime(options)), stream_(devices_->make_stream(0)) {
    device::LaneKernels kernels = device::pretended_kernels();
    kernels.staging_bytes = options.staging_bytes;
    runtime_.set_devices(devices_.get(), kernels);
    communicator_ = join_world(rank, world, group, store, runtime_);
  }
  ~GpuRank() {
    communicator_->shutdown();
    communicator_.reset();
    devices_->destroy(stream_);
    for (const DeviceSegment& segment : segments_) devices_->free(segment);
    for (std::byte* memory : pinned_) devices_->free_pinned(memory);
  }
  GpuRank(const GpuRank&) = delete;
  GpuRank& operator=(const GpuRank&) = delete;

  Communicator& communicator() { return *communicator_; }
  Runtime& runtime() { return runtime_; }
  StreamHandle stream() const { return stream_; }
  DeviceRuntime& devices() { return *devices_; }

  // Memory of the GPU, with a copy of `bytes` once the stream gets there.
  std::byte* upload(const std::vector<std::byte>& bytes, bool in_heap) {
    std::byte* const host = pinned(bytes.size());
    if (!bytes.empty()) std::memcpy(host, bytes.data(), bytes.size());
    std::byte* memory = nullptr;
    if (in_heap) {
      memory = runtime_.device_heap(0).allocate(bytes.size());
    } else {
      segments_.push_back(devices_->allocate(0, bytes.size() + 1));
      memory = segments_.back().base;
    }
    devices_->copy(stream_, memory, host, bytes.size());
    return memory;
  }
  // The same, to memory that there is.
  void write(std::byte* memory, const std::vector<std::byte>& bytes) {
    std::byte* const host = pinned(bytes.size());
    std::memcpy(host, bytes.data(), bytes.size());
    devices_->copy(stream_, memory, host, bytes.size());
  }
  std::vector<std::byte> download(const std::byte* memory, std::size_t size_bytes) {
    std::byte* const host = pinned(size_bytes);
    devices_->copy(stream_, host, memory, size_bytes);
    devices_->synchronize(stream_);
    return {host, host + size_bytes};
  }
  // Sets up the GPUs of the group, if that is still to be done: a collective call.
  DeviceCollectives& collectives() {
    return communicator_->device().collectives(stream_, *communicator_);
  }
  // In a group of two: whether the peer reads this rank's memory in place.
  bool maps_peer() { return collectives().maps(1 - communicator_->rank()); }
  // Runs the call on the GPU. Later work in the stream runs after the call.
  void run(CollectiveCall call) {
    call.stream = stream_;
    call.device_end = std::make_shared<DeviceEnd>();
    call.synchronous = false;
    const auto end = call.device_end;
    communicator_->wait(*communicator_->run(std::move(call)), -1);
    end->finish_before(stream_);
  }

 private:
  std::byte* pinned(std::size_t size_bytes) {
    pinned_.push_back(devices_->allocate_pinned(size_bytes + 1));
    return pinned_.back();
  }

  const std::unique_ptr<DeviceRuntime> devices_;
  Runtime runtime_;
  const StreamHandle stream_;
  std::vector<DeviceSegment> segments_;
  std::vector<std::byte*> pinned_;
  std::shared_ptr<Communicator> communicator_;
};

// Runs body(GpuRank&) for every rank. Each has the others' memory at addresses of its own, because
// the thread sanitizer sees no order in the rings and sockets between them, and would report races.
// test_exchanges.cpp has channels that it understands.
template <typename Body>
void with_gpu_ranks(int world, const Options& group, PretendedOptions options, Body body) {
  MemoryStore store;
  with_threads(world, [&](int rank) {
    PretendedOptions own = options;
    own.maps_apart = true;
    own.seed = options.seed * 100 + static_cast<uint64_t>(rank);
    GpuRank made(own, group, rank, world, store);
    body(made);
  });
}

// Ordinary numbers, if they are taken for float32.
inline std::vector<std::byte> drawn_floats(std::size_t size_bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(size_bytes / sizeof(float));
  for (float& value : values) value = static_cast<float>(random() % 2000) * 0.37F - 300.0F;
  std::vector<std::byte> bytes(size_bytes);
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), values.size() * sizeof(float));
  return bytes;
}

}  // namespace fastgpu::test
