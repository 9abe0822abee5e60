// fastgpu_gpu_check SECTION [--reduced]: checks or measures device code on the first GPU, and
// prints lines (lines.h). Without a GPU it exits with 77. tools/gpu_check.py runs all sections.
#include <cuda_runtime.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "checks.h"
#include "gpu.h"

namespace fastgpu::test {
namespace {

constexpr int kNoGpu = 77;

void describe_gpu(Lines& lines, const CheckOptions&) {
  int driver = 0;
  int runtime = 0;
  CUDA_CHECK(cudaDriverGetVersion(&driver));
  CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  const GpuProperties gpu = gpu_properties();
  lines.passed("GPU", gpu.name + ", " + std::to_string(gpu.multiprocessors) + " multiprocessors");
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  lines.passed("CUDA", "runtime " + version(runtime) + ", the driver's " + version(driver));
}

struct Section {
  const char* name;
  void (*run)(Lines&, const CheckOptions&);
};

constexpr std::array kSections{
    Section{"describe", describe_gpu},   Section{"conversions", check_conversions},
    Section{"reduce", check_reduce},     Section{"codec", check_codec},
    Section{"lanes", check_lanes},       Section{"small", check_small},
    Section{"launches", check_launches}, Section{"failures", check_failures},
    Section{"rates", measure_rates},     Section{"codec_rates", measure_codec},
};

int run(const Section& section, const CheckOptions& options) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::printf("no GPU, nothing was checked: %s\n",
                error == cudaSuccess ? "the driver knows none" : cudaGetErrorString(error));
    return kNoGpu;
  }
  Lines lines;
  try {
    section.run(lines, options);
  } catch (const std::exception& failed) {
    lines.failed(section.name, failed.what());
  }
  std::printf("end\t%s\n", section.name);
  return lines.all_passed() ? 0 : 1;
}

}  // namespace
}  // namespace fastgpu::test

int main(int argc, char** argv) {
  // Streams that share a queue would make one rank's kernel wait for another's. Read by the driver
  // as it starts. NOLINTNEXTLINE(concurrency-mt-unsafe)
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  const bool reduced = argc == 3 && std::strcmp(argv[2], "--reduced") == 0;
  for (const auto& section : fastgpu::test::kSections) {
    if ((argc == 2 || reduced) && std::strcmp(argv[1], section.name) == 0) {
      return fastgpu::test::run(section, {.reduced = reduced});
    }
  }
  std::fprintf(stderr, "usage: %s SECTION [--reduced]\n", argv[0]);
  return 2;
}
