#include "stream_world.h"

#include <vector>

#include "kernels/cuda/reduce.h"
#include "kernels/reduce.h"
#include "memory.h"

namespace fastgpu::test {
namespace {

constexpr std::size_t kElement = sizeof(float);

void fill(const DeviceMemory& memory, uint64_t seed) {
  std::mt19937_64 random(seed);
  memory.fill(random);
}

struct Rank {
  Rank(simt::Machine& machine, std::size_t size_bytes)
      : input(size_bytes),
        output(size_bytes),
        stream(machine.make_stream(0)),
        ready(machine.make_event()),
        done(machine.make_event()) {}
  DeviceMemory input;
  DeviceMemory output;
  simt::Stream* stream;
  simt::Event* ready;
  simt::Event* done;
};

device::ReduceArgs args_of(const std::vector<Rank>& ranks, std::size_t rank, std::size_t count) {
  const std::size_t begin = count * rank / ranks.size() * kElement;
  const std::size_t end = count * (rank + 1) / ranks.size() * kElement;
  device::ReduceArgs args{};
  args.sources.count = args.targets.count = static_cast<int>(ranks.size());
  for (std::size_t peer = 0; peer < ranks.size(); ++peer) {
    args.sources.at[peer] = ranks[peer].input.data() + begin;
    args.targets.at[peer] = ranks[peer].output.data() + begin;
  }
  args.size_bytes = end - begin;
  args.factor = 1;
  return args;
}

void enqueue(simt::Machine& machine, std::vector<Rank>& ranks, std::size_t count, uint64_t seed) {
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    machine.call(ranks[rank].stream,
                 [&ranks, rank, seed] { fill(ranks[rank].input, seed + rank); });
    machine.record(ranks[rank].stream, ranks[rank].ready);
  }
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    for (const Rank& peer : ranks) machine.wait(ranks[rank].stream, peer.ready);
    const device::ReduceArgs args = args_of(ranks, rank, count);
    machine.launch(ranks[rank].stream, {}, [args] { device::reduce_all<Real<float>, Sum>(args); });
    machine.record(ranks[rank].stream, ranks[rank].done);
  }
  for (const Rank& rank : ranks) {
    for (const Rank& peer : ranks) machine.wait(rank.stream, peer.done);
  }
}

}  // namespace

std::string run_streams(uint64_t seed, simt::MachineFault fault) {
  std::mt19937_64 random(seed);
  const std::size_t world = 2 + random() % 4;
  const std::size_t count = 1 + random() % 700;
  simt::Machine machine({.seed = seed, .resident_blocks = 1, .fault = fault});
  std::vector<Rank> ranks;
  for (std::size_t rank = 0; rank < world; ++rank) ranks.emplace_back(machine, count * kElement);
  for (const uint64_t turn : {0, 1}) enqueue(machine, ranks, count, seed * 100 + turn * 10);
  for (const Rank& rank : ranks) machine.synchronize(rank.stream);
  DeviceMemory expected(count * kElement);
  DeviceMemory input(count * kElement);
  fill(expected, seed * 100 + 10);
  for (std::size_t rank = 1; rank < world; ++rank) {
    fill(input, seed * 100 + 10 + rank);
    find_reduce(DType::kFloat32, ReduceOp::kSum)(expected.data(), input.data(), count);
  }
  for (const Rank& rank : ranks) {
    if (!(rank.output == expected)) return "streams, seed " + std::to_string(seed) + ": differs";
  }
  return "";
}

}  // namespace fastgpu::test
