#include "small_case.h"

#include <array>
#include <random>

#include "engine/device/small.h"
#include "kernels/reduce.h"

namespace fastgpu::test {

std::string describe(const SmallCase& small_case) {
  return "small, world " + std::to_string(small_case.world) + ", " +
         std::string(name_of(small_case.dtype)) + ", seed " + std::to_string(small_case.seed);
}

std::vector<SmallData> draw_data(const SmallCase& small_case) {
  const std::size_t element = size_of(small_case.dtype);
  const ReduceKernel reduce = find_reduce(small_case.dtype, small_case.reduce_op);
  std::mt19937_64 random(small_case.seed);
  std::vector<SmallData> all;
  for (const uint64_t count : small_case.counts) {
    const std::size_t size_bytes = count * element;
    SmallData data{.inputs = {}, .expected = DeviceMemory(size_bytes)};
    for (int rank = 0; rank < small_case.world; ++rank) {
      DeviceMemory numbers(size_bytes);
      numbers.fill(random);
      data.inputs.emplace_back(size_bytes, small_case.shift * element);
      std::memcpy(data.inputs.back().data(), numbers.data(), size_bytes);
      if (rank == 0) {
        std::memcpy(data.expected.data(), numbers.data(), size_bytes);
      } else {
        reduce(data.expected.data(), numbers.data(), count);
      }
    }
    if (small_case.averages) {
      scale(data.expected.data(), count, small_case.dtype, 1.0 / small_case.world);
    }
    all.push_back(std::move(data));
  }
  return all;
}

SmallCase draw_small(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](uint64_t n) { return static_cast<std::size_t>(random() % n); };
  SmallCase drawn;
  drawn.seed = seed;
  drawn.world = 2 + static_cast<int>(below(device::kMaxRanks - 1));
  constexpr std::array kTypes{DType::kFloat32, DType::kBFloat16};
  drawn.dtype = kTypes[below(2)];
  constexpr std::array<uint64_t, 6> kCounts{1, 2, 33, 64, 129, 600};
  drawn.counts.clear();
  for (int i = 0; i < 5; ++i) drawn.counts.push_back(kCounts[below(kCounts.size())]);
  drawn.shift = below(2);
  drawn.averages = below(2) == 0;
  drawn.slow_stream = below(2) == 0;
  // In half of the cases the flags wrap around; in the others the slots are cleared.
  drawn.ended = below(2) == 0 ? 0xfffffffd : 5 * device::kClearEvery - 3;
  return drawn;
}

}  // namespace fastgpu::test
