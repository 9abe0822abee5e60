// The n-way reduction of every dtype and operation gives the bits of the CPU's kernels.
#include <string>
#include <vector>

#include "check.h"
#include "kernels/cuda/find_reduction.h"
#include "kernels/reduce.h"
#include "memory.h"
#include "sim/schedule_cases.h"
#include "simt_machine.h"

namespace fastgpu::test {
namespace {

// Under a sanitizer only common reductions: each instance takes half a second to compile.
struct FindTested {
  template <typename Element, typename Op>
  device::ReduceAllKernel operator()() const {
    if constexpr (kStride == 1 || device::kIsCommon<Element, Op>) {
      return device::reduce_all<Element, Op>;
    } else {
      return nullptr;
    }
  }
};

struct ReduceCase {
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;
  int sources = 1;
  int targets = 1;
  std::size_t count = 0;
  std::size_t shift = 0;  // elements
  bool apart = false;     // the last source lies otherwise within 16 bytes
  bool in_place = false;  // target 0 is source 0
  double factor = 1;
};

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
  const bool is_integer = dtype >= DType::kInt8 && dtype <= DType::kBool;
  if (reduce_op == ReduceOp::kAvg && !is_integer) drawn.factor = 1.0 / drawn.sources;
  return drawn;
}

void check_case(const ReduceCase& drawn, uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::size_t element = size_of(drawn.dtype);
  const std::size_t size_bytes = drawn.count * element;
  std::vector<DeviceMemory> sources;
  std::vector<DeviceMemory> targets;
  device::ReduceArgs args{};
  args.size_bytes = size_bytes;
  args.factor = drawn.factor;
  args.sources.count = drawn.sources;
  args.targets.count = drawn.targets;
  for (int i = 0; i < drawn.sources; ++i) {
    const bool moved = drawn.apart && i + 1 == drawn.sources;
    sources.emplace_back(size_bytes, (drawn.shift + (moved ? 1 : 0)) * element);
    sources.back().fill(random);
    args.sources.at[i] = sources.back().data();
  }
  DeviceMemory expected(size_bytes);
  std::memcpy(expected.data(), args.sources.at[0], size_bytes);
  const ReduceKernel reduce = find_reduce(drawn.dtype, drawn.reduce_op);
  for (int i = 1; i < drawn.sources; ++i) {
    DeviceMemory aligned(size_bytes);
    std::memcpy(aligned.data(), args.sources.at[i], size_bytes);
    reduce(expected.data(), aligned.data(), drawn.count);
  }
  if (drawn.factor != 1) scale(expected.data(), drawn.count, drawn.dtype, drawn.factor);
  for (int i = 0; i < drawn.targets; ++i) {
    targets.emplace_back(size_bytes, drawn.shift * element);
    args.targets.at[i] = drawn.in_place && i == 0 ? sources.front().data() : targets.back().data();
  }

  simt::Machine machine({.seed = seed});
  simt::Stream* const stream = machine.make_stream(0);
  const device::ReduceAllKernel kernel =
      device::find_reduction(drawn.dtype, drawn.reduce_op, FindTested{});
  machine.launch(stream, {.blocks = 2, .threads = 32}, [=] { kernel(args); });
  machine.synchronize(stream);
  for (int i = 0; i < drawn.targets; ++i) {
    if (std::memcmp(args.targets.at[i], expected.data(), size_bytes) == 0) continue;
    throw Failed(std::string(name_of(drawn.dtype)) + " " + std::string(name_of(drawn.reduce_op)) +
                 ": target " + std::to_string(i) + " differs, seed " + std::to_string(seed));
  }
}

}  // namespace

TEST(every_reduction_has_the_bits_of_the_cpu) {
  uint64_t seed = 1;
  std::mt19937_64 random(seed);
  for (int dtype = 0; dtype < kDTypeCount; ++dtype) {
    for (int op = 0; op < kReduceOpCount; ++op) {
      const auto type = static_cast<DType>(dtype);
      const auto reduce_op = static_cast<ReduceOp>(op);
      const bool tested = device::find_reduction(type, reduce_op, FindTested{}) != nullptr;
      if (kStride == 1) CHECK_EQ(tested, find_reduce(type, reduce_op) != nullptr);
      for (int i = 0; tested && i < 2; ++i)
        check_case(draw_reduce(type, reduce_op, random), ++seed);
    }
  }
}

}  // namespace fastgpu::test
