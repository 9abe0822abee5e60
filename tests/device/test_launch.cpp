// Kernels of lanes and of the small all_reduce on pretended runtimes, one for each rank: the ranks
// are threads, or processes, and wait for each other in kernels.
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "check.h"
#include "engine/device/lane.h"
#include "engine/device/small.h"
#include "plan/build.h"
#include "pretended_kernels.h"
#include "pretended_runtime.h"
#include "sim/rank_threads.h"
#include "transport/socket/socket.h"

namespace fastgpu::test::launched {
namespace {

constexpr int kWorld = 2;
constexpr int kLanes = 2;
constexpr std::size_t kCount = 250;
constexpr unsigned kBlocks = 8;  // of 32 threads; a word of the small all_reduce each
constexpr uint64_t kPatience = 60'000'000'000;  // in nanoseconds

// A rank's segment.
struct Memory {
  device::Control control;
  device::Mail mail[kLanes * kWorld];
  uint64_t slots[2 * kWorld * (kCount + std::size_t{device::kSmallBlocks} * device::kKeyWords)];
  uint64_t cleared[device::kSmallBlocks * kWorld];
  uint64_t small_operations[device::kSmallBlocks];
  uint64_t lane_operations[kLanes];
  float data[kCount];
  float scratch[kCount];
};

class Rank {
 public:
  // `socket` leads to the peer.
  Rank(int rank, int socket, const PretendedOptions& options)
      : rank_(rank),
        runtime_(make_pretended_runtime(options)),
        stream_(runtime_->make_stream(0)),
        mine_(runtime_->allocate(0, sizeof(Memory))),
        host_word_(reinterpret_cast<uint64_t*>(runtime_->allocate_pinned(2 * sizeof(uint64_t)))) {
    std::memset(mine_.base, 0, sizeof(Memory));
    const SharedSegment shared = runtime_->share(mine_);
    const std::array<int, 1> descriptors{shared.fd.get()};
    CHECK(send_message(socket, std::as_bytes(std::span(&shared.size_bytes, 1)), descriptors));
    Message message;
    while (recv_message(socket, message) == Received::kNothing) std::this_thread::yield();
    CHECK_EQ(message.descriptors.size(), std::size_t{1});
    peers_ =
        runtime_->map(0, {.fd = std::move(message.descriptors[0]), .size_bytes = sizeof(Memory)});
    segments_[index(rank)] = mine_.base;
    segments_[index(1 - rank)] = peers_.base;
    compile();
  }
  ~Rank() {
    runtime_->destroy(stream_);
    for (std::byte* memory : pinned_) runtime_->free_pinned(memory);
    runtime_->free_pinned(reinterpret_cast<std::byte*>(host_word_));
    runtime_->unmap(peers_);
    runtime_->free(mine_);
  }
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  int rank() const { return rank_; }
  DeviceRuntime& runtime() { return *runtime_; }
  StreamHandle stream() const { return stream_; }
  const device::Control& control(int of) const { return memory(of)->control; }
  void stop_by_host() {
    __atomic_store_n(host_word_, device::HostWord::kStopAll, __ATOMIC_RELAXED);
  }

  void start_small(uint64_t patience = kPatience) {
    device::SmallArgs args{};
    args.group = group(patience);
    args.key[0] = 5;
    args.input = args.output = reinterpret_cast<std::byte*>(memory(rank_)->data);
    args.size_bytes = sizeof(Memory::data);
    args.factor = 1;
    args.capacity = kCount;
    args.operation = memory(rank_)->small_operations;
    for (int each = 0; each < kWorld; ++each) {
      args.slots[each] = memory(each)->slots;
      args.cleared[each] = memory(each)->cleared;
    }
    launch(device::pretended_kernels().small(DType::kFloat32, ReduceOp::kSum), args, kBlocks);
  }

  void start_lanes(uint64_t patience = kPatience) {
    device::LaneArgs args{};
    args.group = group(patience);
    args.entries = table_.entries.data();
    args.first = table_.first.data();
    args.key[0] = 6;
    args.factor = 1;
    args.operation = memory(rank_)->lane_operations;
    const std::array<float*, 2> buffers{memory(rank_)->data, memory(rank_)->scratch};
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      args.buffers[i + 1] = reinterpret_cast<std::byte*>(buffers[i]);
      args.locations[i + 1] = static_cast<uint64_t>(args.buffers[i + 1] - mine_.base);
    }
    for (int each = 0; each < kWorld; ++each) {
      args.segments[each] = &segments_[index(each)];
      args.mail[each] = memory(each)->mail;
    }
    launch(device::pretended_kernels().lanes(DType::kFloat32, ReduceOp::kSum), args, kLanes);
  }

  // Both in stream order.
  void upload(const std::vector<float>& values) {
    std::byte* const host = pinned();
    std::memcpy(host, values.data(), sizeof(Memory::data));
    runtime_->copy(stream_, reinterpret_cast<std::byte*>(memory(rank_)->data), host,
                   sizeof(Memory::data));
  }
  const float* download() {
    std::byte* const host = pinned();
    runtime_->copy(stream_, host, reinterpret_cast<std::byte*>(memory(rank_)->data),
                   sizeof(Memory::data));
    return reinterpret_cast<const float*>(host);
  }

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
  Memory* memory(int of) const { return reinterpret_cast<Memory*>(segments_[index(of)]); }
  std::byte* pinned() {
    pinned_.push_back(runtime_->allocate_pinned(sizeof(Memory::data)));
    return pinned_.back();
  }

  void compile() {
    std::vector<Schedule> schedules;
    for (int each = 0; each < kWorld; ++each) {
      PlanRequest request;
      request.collective = Collective::kAllReduce;
      request.algorithm = Algorithm::kDirect;
      request.shots = 2;
      request.rank = each;
      request.world = kWorld;
      request.count = kCount;
      request.element_size = sizeof(float);
      request.lanes = kLanes;
      schedules.push_back(build(request));
    }
    CHECK(schedules[index(rank_)].scratch_bytes <= sizeof(Memory::scratch));
    table_ = device::compile(schedules, rank_);
  }

  device::Group group(uint64_t patience) const {
    device::Group group{};
    group.rank = rank_;
    group.world = kWorld;
    group.patience = patience;
    group.host_word = host_word_;
    group.ended = host_word_ + 1;
    for (int each = 0; each < kWorld; ++each) group.control[each] = &memory(each)->control;
    return group;
  }

  template <typename Args>
  void launch(const void* kernel, const Args& args, unsigned blocks) {
    runtime_->load(0, kernel);
    runtime_->launch(
        stream_,
        {.kernel = kernel, .arguments = std::as_bytes(std::span(&args, 1)), .blocks = blocks});
  }

  const int rank_;
  const std::unique_ptr<DeviceRuntime> runtime_;
  const StreamHandle stream_;
  const DeviceSegment mine_;
  DeviceSegment peers_;
  uint64_t* const host_word_;
  std::array<std::byte*, kWorld> segments_{};  // by rank
  device::Table table_;
  std::vector<std::byte*> pinned_;
};

struct Sockets {
  Sockets() {
    std::array<int, kWorld> made{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, made.data()) != 0) {
      fail("test", 0, "socketpair");
    }
    for (std::size_t rank = 0; rank < kWorld; ++rank) ends[rank] = UniqueFd(made[rank]);
  }
  int of(int rank) const { return ends[static_cast<std::size_t>(rank)].get(); }
  std::array<UniqueFd, kWorld> ends;
};

template <typename Body>
void with_two(bool maps_apart, Body body) {
  const Sockets sockets;
  with_threads(kWorld, [&](int number) {
    const auto seed = static_cast<uint64_t>(number) + 1;
    Rank rank(number, sockets.of(number), {.seed = seed, .maps_apart = maps_apart});
    body(rank);
  });
}

std::vector<float> values_of(int rank, int turn) {
  std::vector<float> values(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    values[i] = static_cast<float>(i % 97) * 0.37F + static_cast<float>(rank * 10 + turn);
  }
  return values;
}

// Two small all_reduces and two of lanes, without waiting in between. Returns what went wrong, or
// "".
std::string run_all_reduces(Rank& rank) {
  constexpr int kTurns = 4;
  std::vector<const float*> results;
  for (int turn = 0; turn < kTurns; ++turn) {
    rank.upload(values_of(rank.rank(), turn));
    turn < kTurns / 2 ? rank.start_small() : rank.start_lanes();
    results.push_back(rank.download());
  }
  rank.runtime().synchronize(rank.stream());
  if (const uint64_t stop = rank.control(rank.rank()).stop; stop != 0) {
    return "stopped, " + std::to_string(stop);
  }
  for (int turn = 0; turn < kTurns; ++turn) {
    const std::vector<float> first = values_of(0, turn);
    const std::vector<float> second = values_of(1, turn);
    for (std::size_t i = 0; i < kCount; ++i) {
      if (results[static_cast<std::size_t>(turn)][i] == first[i] + second[i]) continue;
      return "element " + std::to_string(i) + " differs in turn " + std::to_string(turn);
    }
  }
  return "";
}

// Checks the record of the rank's failure.
void check_failure(const Rank& rank, device::FailureCode code) {
  const device::Control& control = rank.control(rank.rank());
  const uint64_t stop = (static_cast<uint64_t>(rank.rank()) + 1) << 8 | static_cast<uint64_t>(code);
  CHECK_EQ(control.stop, stop);
  CHECK_EQ(rank.control(1 - rank.rank()).stop, stop);
  const auto failure = __builtin_bit_cast(device::FailurePoint, control.failure);
  CHECK(failure.code == code);
  CHECK_EQ(static_cast<int>(failure.peer), 1 - rank.rank());
}

TEST(kernels_of_two_threads_wait_for_each_other) {
  for (const bool maps_apart : {true, false}) {
    with_two(maps_apart, [](Rank& rank) { CHECK_EQ(run_all_reduces(rank), ""); });
  }
}

TEST(kernels_of_two_processes_wait_for_each_other) {
  const Sockets sockets;
  const auto be_rank = [&](int number) {
    Rank rank(number, sockets.of(number), {.seed = static_cast<uint64_t>(number) + 1});
    return run_all_reduces(rank);
  };
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 1;
    try {
      status = be_rank(1).empty() ? 0 : 2;
    } catch (const std::exception& error) {
      ::dprintf(2, "rank 1: %s\n", error.what());
    }
    std::_Exit(status);
  }
  CHECK_EQ(be_rank(0), "");
  int status = 0;
  CHECK_EQ(::waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
}

TEST(a_kernel_gives_up_a_peer_that_never_comes) {
  constexpr uint64_t kShortPatience = 30'000'000;
  for (const bool small : {true, false}) {
    with_two(true, [&](Rank& rank) {
      if (rank.rank() != 0) return;
      const TimeNs begun = now_ns();
      small ? rank.start_small(kShortPatience) : rank.start_lanes(kShortPatience);
      rank.runtime().synchronize(rank.stream());
      const TimeNs taken = now_ns() - begun;
      CHECK(taken >= static_cast<TimeNs>(kShortPatience));
      CHECK(taken < static_cast<TimeNs>(kPatience) / 2);
      check_failure(rank, device::FailureCode::kTimeout);
      rank.start_lanes();  // ends at once
      rank.runtime().synchronize(rank.stream());
    });
  }
}

TEST(the_host_stops_a_kernel_that_waits) {
  for (const bool small : {true, false}) {
    with_two(true, [&](Rank& rank) {
      if (rank.rank() != 0) return;
      small ? rank.start_small() : rank.start_lanes();
      CHECK(!is_idle(rank.stream()));
      rank.stop_by_host();
      rank.runtime().synchronize(rank.stream());
      check_failure(rank, device::FailureCode::kStopped);
    });
  }
}

TEST(a_kernel_that_is_not_there_is_refused) {
  const auto runtime = make_pretended_runtime({});
  const StreamHandle stream = runtime->make_stream(0);
  const device::LaneKernels kernels = device::pretended_kernels();
  CHECK(kernels.copy_lanes() != nullptr);
  CHECK(kernels.lanes(DType::kInt64, ReduceOp::kAvg) == nullptr);
  const void* const none = kernels.small(DType::kInt64, ReduceOp::kSum);
  CHECK(none == nullptr);
  CHECK_THROWS(runtime->load(0, none), InvalidArgumentError, "no such kernel");
  CHECK_THROWS(runtime->launch(stream, {.kernel = none, .arguments = {}}), InvalidArgumentError,
               "no such kernel");
  runtime->destroy(stream);
}

}  // namespace
}  // namespace fastgpu::test::launched
