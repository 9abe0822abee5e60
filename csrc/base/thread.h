// Starts the library's own threads.
// Thread safety: free functions without state.
#pragma once

#include <functional>
#include <thread>

namespace fastgpu {

// A thread that runs `body`. `name` has at most 15 characters. Raises OutOfResourcesError.
std::thread start_thread(const char* name, std::function<void()> body);

}  // namespace fastgpu
