#include "reduce_case.h"

#include "kernels/cuda/reduce.h"
#include "kernels/reduce.h"

namespace fastgpu::test {

std::string describe(const ReduceCase& reduce_case) {
  return std::string(name_of(reduce_case.dtype)) + " " +
         std::string(name_of(reduce_case.reduce_op)) + ", " + std::to_string(reduce_case.count) +
         " elements, " + std::to_string(reduce_case.sources) + " sources, " +
         std::to_string(reduce_case.targets) + " targets, shift " +
         std::to_string(reduce_case.shift) + (reduce_case.apart ? ", apart" : "") +
         (reduce_case.in_place ? ", in place" : "");
}

ReduceCase draw_reduce(DType dtype, ReduceOp reduce_op, std::mt19937_64& random) {
  const auto below = [&](uint64_t n) { return random() % n; };
  constexpr std::size_t kCounts[] = {0, 1, 7, 64, 333};
  ReduceCase drawn{.dtype = dtype, .reduce_op = reduce_op};
  drawn.sources = 1 + static_cast<int>(below(device::kMaxSources));
  drawn.targets = 1 + static_cast<int>(below(3));
  drawn.count = kCounts[below(5)];
  drawn.shift = below(3) == 0 ? 1 : 0;
  drawn.apart = below(4) == 0;
  drawn.in_place = below(2) == 0;
  if (reduce_op == ReduceOp::kAvg) drawn.factor = 1.0 / drawn.sources;
  return drawn;
}

std::vector<DeviceMemory> draw_sources(const ReduceCase& reduce_case, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<DeviceMemory> sources;
  for (int i = 0; i < reduce_case.sources; ++i) {
    sources.emplace_back(reduce_case.size_bytes(), reduce_case.shift_bytes(i));
    sources.back().fill(random);
  }
  return sources;
}

DeviceMemory reduce_on_cpu(const ReduceCase& reduce_case,
                           const std::vector<DeviceMemory>& sources) {
  const std::size_t size_bytes = reduce_case.size_bytes();
  DeviceMemory result(size_bytes);
  std::memcpy(result.data(), sources.front().data(), size_bytes);
  const ReduceKernel reduce = find_reduce(reduce_case.dtype, reduce_case.reduce_op);
  for (std::size_t i = 1; i < sources.size(); ++i) {
    DeviceMemory aligned(size_bytes);
    std::memcpy(aligned.data(), sources[i].data(), size_bytes);
    reduce(result.data(), aligned.data(), reduce_case.count);
  }
  if (reduce_case.factor != 1) {
    scale(result.data(), reduce_case.count, reduce_case.dtype, reduce_case.factor);
  }
  return result;
}

}  // namespace fastgpu::test
