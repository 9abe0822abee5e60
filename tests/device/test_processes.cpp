// Two processes with a pretended device each map the other's memory, and run all_reduces over rings
// in shared memory. Only the device differs from ranks of one host.
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "engine/collective_queue.h"
#include "engine/device/host_driven/channels.h"
#include "kernels/reduce.h"
#include "plan/build.h"
#include "pretended_runtime.h"
#include "transport/socket/socket.h"
#include "unit/shm_ends.h"

#if defined(__SANITIZE_THREAD__)
// Earlier tests leave fibers, which the sanitizer takes for threads. By default it ends a
// process that was forked from one with several threads and then makes threads.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() {
  return "die_after_fork=0";
}
#endif

namespace fastgpu::test {
namespace {

constexpr std::size_t kCount = 10'000;

// What both processes inherit: a ring for each direction and lane of host memory, a doorbell for
// each rank, and two ends of a socket for the descriptors of segments.
struct Inherited {
  Inherited() {
    for (UniqueFd& ring : rings) ring = create_shm_ring({.slots = 4, .buffer_bytes = 4096});
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
      fail("test", 0, "socketpair");
    for (std::size_t rank = 0; rank < 2; ++rank) sockets[rank] = UniqueFd(ends[rank]);
  }
  const UniqueFd& ring(int from, int lane) const {
    return rings[2 * static_cast<std::size_t>(from) + static_cast<std::size_t>(lane)];
  }
  std::array<UniqueFd, 4> rings;
  std::array<std::shared_ptr<Doorbell>, 2> bells{make_bell(), make_bell()};
  std::array<UniqueFd, 2> sockets;
};

class HostChannels : public ChannelSource {
 public:
  HostChannels(const Inherited& inherited, int rank) {
    const int peer = 1 - rank;
    const auto& bell = inherited.bells[static_cast<std::size_t>(peer)];
    for (int lane = 0; lane < 2; ++lane) {
      const auto end = make_shm_end();
      senders_.push_back(
          make_shm_sender(copy_of(inherited.ring(rank, lane)), bell, end, nullptr, {}));
      receivers_.push_back(make_shm_receiver(copy_of(inherited.ring(peer, lane)), bell, end,
                                             std::make_shared<PeerSegments>()));
    }
  }
  SendChannel* sender(int, int lane) override {
    return senders_[static_cast<std::size_t>(lane)].get();
  }
  RecvChannel* receiver(int, int lane) override {
    return receivers_[static_cast<std::size_t>(lane)].get();
  }
  bool departed(int) override { return true; }
  uint64_t version() const override { return 1; }

 private:
  std::vector<std::unique_ptr<SendChannel>> senders_;
  std::vector<std::unique_ptr<RecvChannel>> receivers_;
};

struct Announced {
  uint32_t segment = 0;
  uint64_t size_bytes = 0;
};

class SocketPeers : public DevicePeers {
 public:
  SocketPeers(DeviceRuntime& runtime, const DeviceHeap& heap, int socket)
      : heap_(heap), segments_(runtime, 0), socket_(socket) {}
  bool maps(int) override { return true; }
  void share(int, uint32_t segment) override {
    const SharedSegment shared = heap_.share(segment);
    const Announced announced{.segment = segment, .size_bytes = shared.size_bytes};
    const std::array<int, 1> descriptors{shared.fd.get()};
    CHECK(send_message(socket_, std::as_bytes(std::span(&announced, 1)), descriptors));
  }
  const PeerDeviceSegments& segments(int) override {
    Message message;
    if (recv_message(socket_, message) == Received::kMessage) {
      Announced announced;
      CHECK_EQ(message.bytes.size(), sizeof announced);
      std::memcpy(&announced, message.bytes.data(), sizeof announced);
      segments_.add(announced.segment,
                    {std::move(message.descriptors.front()), announced.size_bytes});
    }
    return segments_;
  }

 private:
  const DeviceHeap& heap_;
  PeerDeviceSegments segments_;
  const int socket_;
};

float element(int rank, int turn, std::size_t i) {
  return static_cast<float>(i % 97) * 0.37F + static_cast<float>(rank * 10 + turn);
}

Task all_reduce_task(int rank, Algorithm algorithm) {
  PlanRequest request;
  request.collective = Collective::kAllReduce;
  request.algorithm = algorithm;
  request.rank = rank;
  request.world = 2;
  request.count = kCount;
  request.element_size = sizeof(float);
  Task task;
  task.call.shape.collective = Collective::kAllReduce;
  task.call.shape.dtype = DType::kFloat32;
  task.call.shape.count = kCount;
  task.call.algorithm = algorithm;
  task.key = pack(task.call);
  task.element_size = sizeof(float);
  task.rank = rank;
  task.timeout_ns = 20'000'000'000;
  task.reduce = find_reduce(DType::kFloat32, ReduceOp::kSum);
  task.schedule = std::make_shared<const Schedule>(build(request));
  return task;
}

// Runs one rank: for each algorithm an all_reduce. Returns what went wrong, or "".
std::string be_rank(const Inherited& inherited, int rank) {
  const auto runtime = make_pretended_runtime({.seed = static_cast<uint64_t>(rank) + 1});
  HostChannels host(inherited, rank);
  DeviceHeap heap(*runtime, 0, 1 << 20);
  SocketPeers peers(*runtime, heap, inherited.sockets[static_cast<std::size_t>(rank)].get());
  DeviceExecutor executor(*runtime, 0);
  DeviceScratchMemory scratch(heap, executor);
  const auto pool = std::make_shared<ScratchPool>(&scratch);
  const auto latch = std::make_shared<FailureLatch>();
  DeviceChannels channels({.runtime = *runtime,
                           .executor = executor,
                           .heap = heap,
                           .peers = peers,
                           .host_channels = host},
                          latch);
  CollectiveQueue queue(channels, 1, latch);
  std::byte* const data = heap.allocate(kCount * sizeof(float));
  std::byte* const pinned = runtime->allocate_pinned(kCount * sizeof(float));
  auto* const values = reinterpret_cast<float*>(pinned);
  int turn = 0;
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kRing, Algorithm::kHalving}) {
    for (std::size_t i = 0; i < kCount; ++i) values[i] = element(rank, turn, i);
    auto operation = std::make_shared<Operation>();
    operation->task = all_reduce_task(rank, algorithm);
    operation->task.data = data;
    operation->task.scratch_pool = pool;
    operation->task.executor = &executor;
    executor.copy(data, pinned, kCount * sizeof(float));
    queue.push(operation);
    while (!operation->work.done() || channels.busy()) {
      if (!queue.poll()) queue.expire(now_ns());
      channels.poll();
    }
    if (!operation->work.ok()) return operation->work.failure().message;
    executor.copy(pinned, data, kCount * sizeof(float));
    executor.finish();
    for (std::size_t i = 0; i < kCount; ++i) {
      if (values[i] != element(0, turn, i) + element(1, turn, i)) {
        return "element " + std::to_string(i) + " differs in turn " + std::to_string(turn);
      }
    }
    ++turn;
  }
  runtime->free_pinned(pinned);
  return "";
}

TEST(processes_map_each_others_device_memory) {
  const Inherited inherited;
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 1;
    try {
      status = be_rank(inherited, 1).empty() ? 0 : 2;
    } catch (const std::exception& error) {
      ::dprintf(2, "rank 1: %s\n", error.what());
    }
    std::_Exit(status);
  }
  CHECK_EQ(be_rank(inherited, 0), "");
  int status = 0;
  CHECK_EQ(::waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
}

}  // namespace
}  // namespace fastgpu::test
