#include "base/affinity.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <new>

namespace fastgpu {
namespace {

// A set of the size that the kernel was built for may be larger than cpu_set_t.
constexpr int kMostProcessors = 1 << 16;

struct FreeSet {
  void operator()(cpu_set_t* set) const noexcept { CPU_FREE(set); }
};
using CpuSet = std::unique_ptr<cpu_set_t, FreeSet>;

}  // namespace

std::vector<int> available_cores() {
  const CpuSet set(CPU_ALLOC(kMostProcessors));
  if (set == nullptr) throw std::bad_alloc();
  const std::size_t size_bytes = CPU_ALLOC_SIZE(kMostProcessors);
  CPU_ZERO_S(size_bytes, set.get());
  std::vector<int> cores;
  if (::sched_getaffinity(0, size_bytes, set.get()) != 0) return {0};
  for (int core = 0; core < kMostProcessors; ++core) {
    if (CPU_ISSET_S(core, size_bytes, set.get())) cores.push_back(core);
  }
  return cores;
}

int bind_thread(pthread_t thread, const std::vector<int>& cpus) noexcept {
  if (cpus.empty()) return EINVAL;
  const int processors = 1 + *std::ranges::max_element(cpus);
  const CpuSet set(CPU_ALLOC(processors));
  if (set == nullptr) return ENOMEM;
  const std::size_t size_bytes = CPU_ALLOC_SIZE(processors);
  CPU_ZERO_S(size_bytes, set.get());
  for (const int cpu : cpus) CPU_SET_S(cpu, size_bytes, set.get());
  return ::pthread_setaffinity_np(thread, size_bytes, set.get());
}

}  // namespace fastgpu
