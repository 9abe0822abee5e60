// On which processors a thread may run.
// Thread safety: all calls, any thread.
#pragma once

#include <pthread.h>

#include <vector>

namespace fastgpu {

// Those that the calling thread may use, in order. Never empty.
std::vector<int> available_cores();

// Lets a thread run on these only. Returns 0, or the system's error: none of them may be used here,
// or a sandbox forbids it.
int bind_thread(pthread_t thread, const std::vector<int>& cpus) noexcept;

}  // namespace fastgpu
