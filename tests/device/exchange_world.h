// Schedules run by the engine over device channels and a pretended runtime, against the engine over
// host memory. Ranks are in one thread, streams are threads of their own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "call_case.h"
#include "engine/device/host_driven/channels.h"
#include "pretended_runtime.h"
#include "sim/memory_world.h"

namespace fastgpu::test {

// Ranks map memory of their own host only.
struct ExchangeCase : CallCase {
  int ranks_per_device = 1;
  bool in_heap = true;  // else tensors are in memory that no peer maps
  uint64_t chunk_bytes = 64;
  std::size_t capacity = 2;  // of the channels of host memory
  int most_delay_us = 30;
  RuntimeFault fault = RuntimeFault::kNone;
  TimeNs timeout_ns = kNever;
  uint64_t seed = 1;
};

std::string describe(const ExchangeCase& exchange);
// A case with everything drawn from the seed.
ExchangeCase draw_exchange(uint64_t seed);

// One rank's buffers of one operation: input and data, in host memory.
struct HostBuffers {
  std::vector<std::byte> input;
  std::vector<std::byte> data;
};
HostBuffers draw_buffers(const ExchangeCase& exchange, int rank, int turn);

// The task of a rank without memory, scratch and executor.
Task make_task(const ExchangeCase& exchange, const Schedule& schedule, int rank);

class ExchangeWorld;

// One rank with a stream, a heap and device channels.
class DeviceRank : public DevicePeers {
 public:
  DeviceRank(ExchangeWorld& world, DeviceRuntime& runtime, int rank);
  ~DeviceRank() override;
  DeviceRank(const DeviceRank&) = delete;
  DeviceRank& operator=(const DeviceRank&) = delete;

  bool maps(int peer) override;
  void share(int peer, uint32_t segment) override;
  const PeerDeviceSegments& segments(int peer) override {
    return *segments_[static_cast<std::size_t>(peer)];
  }
  void receive(int peer, uint32_t segment, const SharedSegment& shared) {
    segments_[static_cast<std::size_t>(peer)]->add(segment, shared);
  }

  // Fills the tensors in the caller's stream, and adds the operation. The operation runs after the
  // fill, and before later work of the caller's stream.
  std::shared_ptr<Work> start(const Schedule& schedule, const HostBuffers& buffers);
  // The same with the call of another case.
  std::shared_ptr<Work> start(const Schedule& schedule, const HostBuffers& buffers,
                              const ExchangeCase& call);
  // Keeps the result, in the order of the caller's stream.
  void read_back();
  // Results of all turns, once the caller's stream is done.
  std::vector<std::vector<std::byte>> results();
  bool poll();
  // How many operations still keep their callers' memory.
  long kept() const { return token_.use_count() - 1; }
  bool busy() const { return queue_->busy() || channels_->busy(); }

  std::shared_ptr<FailureLatch> latch = std::make_shared<FailureLatch>();

 private:
  std::byte* allocate(std::size_t size_bytes);
  std::byte* pinned(std::size_t size_bytes);

  ExchangeWorld& world_;
  DeviceRuntime& runtime_;
  const int rank_;
  const int device_;
  DeviceHeap heap_;
  DeviceExecutor executor_;
  DeviceScratchMemory scratch_memory_{heap_, executor_};
  std::shared_ptr<ScratchPool> scratch_pool_ = std::make_shared<ScratchPool>(&scratch_memory_);
  std::vector<std::unique_ptr<PeerDeviceSegments>> segments_;  // by peer
  const StreamHandle stream_;                                  // the caller's
  std::vector<DeviceSegment> private_;
  std::vector<std::byte*> pinned_;
  std::vector<std::pair<std::byte*, std::size_t>> results_;
  const std::shared_ptr<int> token_ = std::make_shared<int>();
  std::byte* input_ = nullptr;
  std::byte* data_ = nullptr;
  std::unique_ptr<DeviceChannels> channels_;
  std::unique_ptr<CollectiveQueue> queue_;
};

class ExchangeWorld {
 public:
  explicit ExchangeWorld(const ExchangeCase& exchange);

  const ExchangeCase& exchange() const { return exchange_; }
  const Schedule& schedule(int rank) const { return schedules_[static_cast<std::size_t>(rank)]; }
  DeviceRank& rank(int rank) { return *ranks_[static_cast<std::size_t>(rank)]; }
  ChannelSource& host_channels(int rank) { return *host_.ends[static_cast<std::size_t>(rank)]; }
  World& host() { return host_; }
  const DeviceRuntime& runtime() const { return *runtime_; }
  // A descriptor on its way from rank to rank.
  void send(int from, int to, uint32_t segment, SharedSegment shared);
  // One turn of all ranks, in a drawn order. Returns whether any is busy.
  bool poll();

 private:
  struct Mail {
    int from;
    int to;
    uint32_t segment;
    SharedSegment shared;
  };
  const ExchangeCase exchange_;
  std::mt19937_64 random_;
  std::vector<Schedule> schedules_;
  std::unique_ptr<DeviceRuntime> runtime_;
  World host_;
  std::vector<Mail> mail_;
  std::vector<std::unique_ptr<DeviceRank>> ranks_;
};

// Runs two operations of the case on the same tensors, without waiting for the streams in between.
// Returns what went wrong, or "".
std::string run_exchange(const ExchangeCase& exchange);

}  // namespace fastgpu::test
