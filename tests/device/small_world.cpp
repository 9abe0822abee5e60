#include "small_world.h"

#include <algorithm>

#include "engine/device/find_small.h"

namespace fastgpu::test {
namespace {

constexpr unsigned kThreads = 32;

unsigned blocks_of(uint64_t size_bytes) {
  const uint64_t words = (size_bytes + 3) / 4;
  return static_cast<unsigned>(
      std::clamp<uint64_t>((words + kThreads - 1) / kThreads, 1, device::kSmallBlocks));
}

}  // namespace

SmallWorld::SmallWorld(simt::Machine& machine, const SmallCase& small_case)
    : machine_(machine), case_(small_case) {
  const std::size_t world = index(small_case.world);
  for (std::size_t rank = 0; rank < world; ++rank) {
    slots_.emplace_back(2 * world * device::slots_of(kCapacity),
                        uint64_t{small_case.first_slot_flag} << 32);
    cleared_.emplace_back(device::kSmallBlocks * world);
    operations_.emplace_back(device::kSmallBlocks, small_case.ended);
    controls_.push_back(std::make_unique<device::Control>());
    streams_.push_back(machine.make_stream(static_cast<int>(rank)));
  }
}

device::SmallArgs SmallWorld::args(int rank, std::byte* data, uint64_t size_bytes, uint64_t key) {
  device::SmallArgs args{};
  args.group.rank = rank;
  args.group.world = case_.world;
  args.group.patience = patience_;
  args.group.host_word = &host_word_;
  args.group.ended = &ended_;
  args.key[0] = key;
  args.key[1] = ~key;
  args.input = data;
  args.output = data;
  args.size_bytes = size_bytes;
  args.factor = case_.averages ? 1.0 / case_.world : 1;
  args.capacity = kCapacity;
  args.operation = operations_[index(rank)].data();
  for (std::size_t each = 0; each < index(case_.world); ++each) {
    args.group.control[each] = controls_[each].get();
    args.slots[each] = slots_[each].data();
    args.cleared[each] = cleared_[each].data();
  }
  return args;
}

void SmallWorld::launch(int rank, std::byte* data, uint64_t size_bytes, uint64_t key) {
  const device::SmallKernel kernel = device::find_small(case_.dtype, case_.reduce_op);
  const device::SmallArgs arguments = args(rank, data, size_bytes, key);
  simt::Stream* const stream = streams_[index(rank)];
  machine_.launch(stream, {.blocks = blocks_of(size_bytes), .threads = kThreads},
                  [kernel, arguments] { kernel(arguments); });
  if (!case_.has_one_set) return;
  // Every operation has an even number then.
  machine_.call(stream, [this, rank] {
    for (uint64_t& operation : operations_[index(rank)]) operation += operation % 2 == 0 ? 1 : 0;
  });
}

void SmallWorld::synchronize() {
  for (simt::Stream* stream : streams_) machine_.synchronize(stream);
}

std::string run_small(const SmallCase& small_case) {
  simt::Machine machine({.seed = small_case.seed, .slow_stream = small_case.slow_stream});
  SmallWorld world(machine, small_case);
  if (small_case.has_one_set) world.set_patience(50'000);
  std::vector<SmallData> data = draw_data(small_case);
  for (std::size_t i = 0; i < data.size(); ++i) {
    for (int rank = 0; rank < small_case.world; ++rank) {
      const DeviceMemory& memory = data[i].inputs[static_cast<std::size_t>(rank)];
      world.launch(rank, memory.data(), memory.size_bytes(), 100 + small_case.counts[i]);
    }
  }
  world.synchronize();
  for (int rank = 0; rank < small_case.world; ++rank) {
    const uint64_t stop = world.control(rank).stop;
    if (stop != 0) return describe(small_case) + ": stopped, " + std::to_string(stop);
  }
  for (std::size_t i = 0; i < data.size(); ++i) {
    for (const DeviceMemory& result : data[i].inputs) {
      if (result == data[i].expected) continue;
      return describe(small_case) + ": differs in operation " + std::to_string(i);
    }
  }
  return "";
}

}  // namespace fastgpu::test
