// The n-way reduction of every dtype and operation, against the CPU's kernels.
#include <cstdint>
#include <vector>

#include "checks.h"
#include "device/reduce_case.h"
#include "gpu.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/reduce_code.h"

namespace fastgpu::test {
namespace {

std::string run_reduce(const ReduceCase& reduce_case, unsigned blocks, uint64_t seed) {
  const std::size_t size_bytes = reduce_case.size_bytes();
  const std::vector<DeviceMemory> host = draw_sources(reduce_case, seed);
  std::vector<GpuMemory> sources;
  std::vector<GpuMemory> targets;
  device::ReduceArgs args{};
  args.size_bytes = size_bytes;
  const void* const divide =
      reduce_case.factor == 1 ? nullptr : device::divide_kernel(reduce_case.dtype);
  args.factor = divide == nullptr ? reduce_case.factor : 1;
  args.sources.count = reduce_case.sources;
  args.targets.count = reduce_case.targets;
  for (int i = 0; i < reduce_case.sources; ++i) {
    sources.emplace_back(size_bytes, reduce_case.shift_bytes(i));
    sources.back().upload(host[static_cast<std::size_t>(i)].data(), size_bytes);
    args.sources.at[i] = sources.back().data();
  }
  for (int i = 0; i < reduce_case.targets; ++i) {
    targets.emplace_back(size_bytes, reduce_case.shift_bytes(-1));
    const bool in_place = reduce_case.in_place && i == 0;
    args.targets.at[i] = in_place ? sources.front().data() : targets.back().data();
  }
  launch(device::reduce_all_kernel(reduce_case.dtype, reduce_case.reduce_op), blocks, 512, args);
  for (int i = 0; divide != nullptr && i < reduce_case.targets; ++i) {
    launch(divide, blocks, 512,
           device::DivideArgs{args.targets.at[i], reduce_case.count,
                              static_cast<uint64_t>(reduce_case.sources)});
  }
  const DeviceMemory expected = reduce_on_cpu(reduce_case, host);
  std::vector<std::byte> found(size_bytes);
  for (int i = 0; i < reduce_case.targets; ++i) {
    CUDA_CHECK(cudaMemcpy(found.data(), args.targets.at[i], size_bytes, cudaMemcpyDeviceToHost));
    const std::string wrong = first_difference(found.data(), expected.data(), size_bytes);
    if (!wrong.empty()) {
      return describe(reduce_case) + ", target " + std::to_string(i) + ", seed " +
             std::to_string(seed) + ": " + wrong;
    }
  }
  return "";
}

}  // namespace

void check_reduce(Lines& lines, const CheckOptions& options) {
  uint64_t seed = 1;
  std::mt19937_64 random(seed);
  for (int dtype = 0; dtype < kDTypeCount; ++dtype) {
    const auto type = static_cast<DType>(dtype);
    CaseGroup group(lines, "n-way reduction of " + std::string(name_of(type)));
    for (int op = 0; op < kReduceOpCount; ++op) {
      const auto reduce_op = static_cast<ReduceOp>(op);
      if (device::reduce_all_kernel(type, reduce_op) == nullptr) continue;
      for (int i = 0; i < (options.reduced ? 2 : 16); ++i) {
        ReduceCase drawn = draw_reduce(type, reduce_op, random);
        // Large ones keep every thread of a large grid busy, several times over.
        if (!options.reduced && i % 4 == 0) drawn.count = 300'007;
        group.add(run_reduce(drawn, i % 2 == 0 ? 132 : 2, ++seed));
      }
    }
    group.finish();
  }
}

}  // namespace fastgpu::test
