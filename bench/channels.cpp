// Measures a channel between two pinned processes: the one-way latency of 8 bytes, and the
// throughput by frame size, one way and both ways, storing and reducing, from private and symmetric
// memory.
//
//   fastgpu_bench_channels [SLOTS SLOT_BYTES]    shared memory
//   fastgpu_bench_channels tcp                   TCP over loopback, which copies symmetric memory
//
// Each figure is the best of several rounds, because other programs may use the machine too.
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "pin.h"
#include "transport/shm/shm.h"
#include "transport/socket/socket.h"
#include "transport/tcp/tcp.h"

namespace {

using namespace fastgpu;

constexpr std::size_t kMostBytes = std::size_t{64} << 20;
constexpr std::size_t kLeastRegion = std::size_t{2} << 20;
// Many short rounds, so that some are not interrupted by other processes.
constexpr std::size_t kBytesARound = std::size_t{2} << 20;
constexpr std::size_t kFramesARound = 2000;
constexpr int kRounds = 60;
constexpr TimeNs kBudget = kSecond / 4;  // for the rounds of one figure

void add_floats(std::byte* target, const std::byte* source, std::size_t count) {
  auto* sums = reinterpret_cast<float*>(target);
  const auto* terms = reinterpret_cast<const float*>(source);
  for (std::size_t i = 0; i < count; ++i) sums[i] += terms[i];
}

// One of the two processes.
struct Side {
  int rank;
  std::unique_ptr<SendChannel> sender;
  std::unique_ptr<RecvChannel> receiver;
  std::byte* source;  // kMostBytes each
  std::byte* symmetric;
  std::byte* target;

  void send(const std::byte* payload, uint64_t size_bytes) const {
    Outgoing frame{.header = {.size_bytes = size_bytes}, .payload = payload};
    while (!frame.done) sender->try_send(frame);
  }
  void receive(std::byte* to, uint64_t size_bytes, ReduceKernel reduce) const {
    FrameHeader header;
    Incoming incoming{
        .target = to, .size_bytes = size_bytes, .sink = {.reduce = reduce, .element_size = 4}};
    while (!incoming.done)
      if (receiver->peek(header) == Io::kMoved) receiver->try_recv(incoming);
  }
  void exchange(const std::byte* payload, std::byte* to, uint64_t size_bytes,
                ReduceKernel reduce) const {
    FrameHeader header;
    Outgoing frame{.header = {.size_bytes = size_bytes}, .payload = payload};
    Incoming incoming{
        .target = to, .size_bytes = size_bytes, .sink = {.reduce = reduce, .element_size = 4}};
    while (!frame.done || !incoming.done) {
      if (!frame.done) sender->try_send(frame);
      if (!incoming.done && receiver->peek(header) == Io::kMoved) receiver->try_recv(incoming);
    }
  }
  // Waits for the other process. Both return rank 0's argument.
  bool barrier(bool more = true) const {
    std::array<std::byte, 8> token{std::byte{more}};
    if (rank == 0) {
      send(token.data(), token.size());
      receive(token.data(), token.size(), nullptr);
    } else {
      receive(token.data(), token.size(), nullptr);
      send(token.data(), token.size());
    }
    return token[0] == std::byte{true};
  }
};

void measure_latency(const Side& side) {
  constexpr int kTurns = 1000;
  TimeNs best = kNever;
  const TimeNs deadline = now_ns() + kBudget;
  for (int round = 0; side.barrier(round < 10 * kRounds && now_ns() < deadline); ++round) {
    const TimeNs start = now_ns();
    for (int turn = 0; turn < kTurns; ++turn) side.barrier();
    best = std::min(best, now_ns() - start);
  }
  if (side.rank == 0)
    std::printf("one way, 8 bytes: %.0f ns\n", static_cast<double>(best) / kTurns / 2);
}

std::size_t frames_a_round(std::size_t size_bytes) {
  return std::clamp<std::size_t>(kBytesARound / size_bytes, 1, kFramesARound);
}

struct Figure {
  bool both_ways;
  bool symmetric;
  ReduceKernel reduce;
};

double gigabytes_per_second(const Side& side, const Figure& figure, std::size_t size_bytes) {
  const std::size_t region = std::max(size_bytes, kLeastRegion);
  const std::size_t frames = frames_a_round(size_bytes);
  const std::byte* source = figure.symmetric ? side.symmetric : side.source;
  TimeNs best = kNever;
  const TimeNs deadline = now_ns() + kBudget;
  for (int round = 0; side.barrier(round < kRounds && now_ns() < deadline); ++round) {
    const TimeNs start = now_ns();
    for (std::size_t i = 0; i < frames; ++i) {
      const std::size_t at = i * size_bytes % region;
      if (figure.both_ways) {
        side.exchange(source + at, side.target + at, size_bytes, figure.reduce);
      } else if (side.rank == 0) {
        side.send(source + at, size_bytes);
      } else {
        side.receive(side.target + at, size_bytes, figure.reduce);
      }
    }
    side.barrier();
    best = std::min(best, now_ns() - start);
  }
  return static_cast<double>(frames * size_bytes) / static_cast<double>(best);
}

double memcpy_gigabytes_per_second(const Side& side, std::size_t size_bytes) {
  const std::size_t region = std::max(size_bytes, kLeastRegion);
  const std::size_t frames = frames_a_round(size_bytes);
  TimeNs best = kNever;
  for (int round = 0; round < kRounds; ++round) {
    const TimeNs start = now_ns();
    for (std::size_t i = 0; i < frames; ++i) {
      const std::size_t at = i * size_bytes % region;
      std::memcpy(side.target + at, side.source + at, size_bytes);
    }
    best = std::min(best, now_ns() - start);
  }
  return static_cast<double>(frames * size_bytes) / static_cast<double>(best);
}

void measure_throughput(const Side& side) {
  constexpr std::array<Figure, 6> kFigures = {{{false, false, nullptr},
                                               {false, false, add_floats},
                                               {false, true, add_floats},
                                               {true, false, nullptr},
                                               {true, false, add_floats},
                                               {true, true, add_floats}}};
  if (side.rank == 0) {
    std::printf(
        "GB/s of payload    one way: store   reduce  symmetric  both ways: store   reduce "
        " symmetric   memcpy\n");
  }
  for (std::size_t size_bytes = 64; size_bytes <= kMostBytes; size_bytes *= 4) {
    std::array<double, 6> speed{};
    for (std::size_t i = 0; i < kFigures.size(); ++i)
      speed[i] = gigabytes_per_second(side, kFigures[i], size_bytes);
    if (side.rank != 0) continue;
    std::printf("%12zu B %16.2f %8.2f %10.2f %17.2f %8.2f %10.2f %8.2f\n", size_bytes, speed[0],
                speed[1], speed[2], speed[3], speed[4], speed[5],
                memcpy_gigabytes_per_second(side, size_bytes));
    std::fflush(stdout);
  }
}

std::byte* touched(std::byte* memory) {
  std::memset(memory, 1, kMostBytes);
  return memory;
}

UniqueFd copy_of(const UniqueFd& fd) { return UniqueFd(::dup(fd.get())); }

struct Ends {
  std::unique_ptr<SendChannel> sender;
  std::unique_ptr<RecvChannel> receiver;
};
using Heaps = std::array<SymmetricHeap, 2>;
// Creates the ends of one process, after the fork.
using MakeEnds = std::function<Ends(std::size_t me, const Heaps& heaps)>;

MakeEnds over_shared_memory(const ShmRingConfig& config) {
  struct Shared {
    std::array<UniqueFd, 2> rings;
    std::array<std::shared_ptr<Doorbell>, 2> bells;
  };
  auto shared = std::make_shared<Shared>();
  for (std::size_t i = 0; i < 2; ++i) {
    shared->rings[i] = create_shm_ring(config);
    shared->bells[i] = std::make_shared<Doorbell>(Doorbell::create());
  }
  std::printf("%u slots of %u bytes\n", config.slots, config.buffer_bytes);
  return [shared](std::size_t me, const Heaps& heaps) {
    const std::size_t peer = 1 - me;
    auto segments = std::make_shared<PeerSegments>();
    segments->add(0, heaps[peer].descriptor(0));
    const auto end = make_shm_end();
    return Ends{
        make_shm_sender(copy_of(shared->rings[me]), shared->bells[peer], end, &heaps[me],
                        [](uint32_t) {}),
        make_shm_receiver(copy_of(shared->rings[peer]), shared->bells[peer], end, segments)};
  };
}

MakeEnds over_tcp() {
  struct Shared {
    std::array<UniqueFd, 2> out;  // by the rank that sends
    std::array<UniqueFd, 2> in;
    std::unique_ptr<Poller> poller;  // created after the fork, which would share the epoll set
  };
  auto shared = std::make_shared<Shared>();
  uint16_t port = 0;
  const UniqueFd listener = listen_tcp("127.0.0.1", {}, &port);
  for (std::size_t i = 0; i < 2; ++i) {
    const UniqueFd dialled = dial_tcp({"127.0.0.1", port});
    pollfd waiting{.fd = listener.get(), .events = POLLIN, .revents = 0};
    ::poll(&waiting, 1, -1);
    shared->out[i] = copy_of(dialled);  // a copy: the library's own sockets do not survive a fork
    shared->in[i] = copy_of(accept_connection(listener.get()));
  }
  std::printf("TCP over loopback\n");
  return [shared](std::size_t me, const Heaps&) {
    shared->poller = std::make_unique<Poller>();
    return Ends{make_tcp_sender(make_tcp_stream(copy_of(shared->out[me])), *shared->poller),
                make_tcp_receiver(make_tcp_stream(copy_of(shared->in[1 - me])), *shared->poller)};
  };
}

int measure(const MakeEnds& make_ends) {
  // Created before the fork, so that both processes can map both; each allocates from its own only.
  Heaps heaps;
  std::array<std::byte*, 2> symmetric{};
  for (std::size_t i = 0; i < 2; ++i) symmetric[i] = heaps[i].allocate(kMostBytes);
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child < 0) return 1;
  const std::size_t me = child == 0 ? 1 : 0;
  pin_to_core(static_cast<int>(me));
  std::vector<std::byte> source(kMostBytes, std::byte{1});
  std::vector<std::byte> target(kMostBytes, std::byte{1});
  {
    Ends ends = make_ends(me, heaps);
    const Side side{static_cast<int>(me), std::move(ends.sender), std::move(ends.receiver),
                    source.data(),        touched(symmetric[me]), target.data()};
    measure_latency(side);
    measure_throughput(side);
    side.barrier();
  }
  if (child == 0) ::_exit(0);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "tcp") return measure(over_tcp());
  ShmRingConfig config;
  if (argc == 3) {
    config.slots = static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10));
    config.buffer_bytes = static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10));
  }
  return measure(over_shared_memory(config));
}
