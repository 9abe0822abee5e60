// The n-way reduction of every dtype and operation gives the bits of the CPU's kernels.
#include <string>
#include <vector>

#include "check.h"
#include "kernels/cuda/divide.h"
#include "kernels/cuda/find_reduction.h"
#include "kernels/reduce.h"
#include "reduce_case.h"
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

void check_case(const ReduceCase& drawn, uint64_t seed) {
  const std::vector<DeviceMemory> sources = draw_sources(drawn, seed);
  const DeviceMemory expected = reduce_on_cpu(drawn, sources);
  const std::size_t size_bytes = drawn.size_bytes();
  std::vector<DeviceMemory> targets;
  device::ReduceArgs args{};
  args.size_bytes = size_bytes;
  const device::DivideKernel divide =
      drawn.factor == 1 ? nullptr : device::find_divide(drawn.dtype);
  args.factor = divide == nullptr ? drawn.factor : 1;
  args.sources.count = drawn.sources;
  args.targets.count = drawn.targets;
  for (int i = 0; i < drawn.sources; ++i) {
    args.sources.at[i] = sources[static_cast<std::size_t>(i)].data();
  }
  for (int i = 0; i < drawn.targets; ++i) {
    targets.emplace_back(size_bytes, drawn.shift_bytes(-1));
    args.targets.at[i] = drawn.in_place && i == 0 ? sources.front().data() : targets.back().data();
  }

  simt::Machine machine({.seed = seed});
  simt::Stream* const stream = machine.make_stream(0);
  const device::ReduceAllKernel kernel =
      device::find_reduction(drawn.dtype, drawn.reduce_op, FindTested{});
  machine.launch(stream, {.blocks = 2, .threads = 32}, [=] { kernel(args); });
  for (int i = 0; divide != nullptr && i < drawn.targets; ++i) {
    const device::DivideArgs division{args.targets.at[i], drawn.count,
                                      static_cast<uint64_t>(drawn.sources)};
    machine.launch(stream, {.blocks = 2, .threads = 32}, [=] { divide(division); });
  }
  machine.synchronize(stream);
  for (int i = 0; i < drawn.targets; ++i) {
    const std::string wrong = first_difference(args.targets.at[i], expected.data(), size_bytes);
    if (wrong.empty()) continue;
    throw Failed(describe(drawn) + ": target " + std::to_string(i) + " differs, seed " +
                 std::to_string(seed) + ", " + wrong);
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
