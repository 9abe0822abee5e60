// Pins the calling thread to a core.
#pragma once

#include <sched.h>

#include <vector>

namespace fastgpu {

// The cores that the calling thread may use.
inline std::vector<int> available_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ::sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  return cores;
}

// Pins the calling thread to the core at position `index` of the available ones, modulo their
// number.
inline void pin_to_core(int index) {
  const std::vector<int> cores = available_cores();
  if (cores.empty()) return;
  cpu_set_t core;
  CPU_ZERO(&core);
  CPU_SET(cores[static_cast<std::size_t>(index) % cores.size()], &core);
  ::sched_setaffinity(0, sizeof core, &core);
}

}  // namespace fastgpu
