// Calls of epoll for the control thread and the engine.
// Thread safety: free functions without state.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace fastgpu {

// Raises OutOfResourcesError.
UniqueFd make_epoll();
// Watches a descriptor edge-triggered, for input, output and the end of the connection. Events
// carry `id`. Raises OutOfResourcesError.
void watch_edges(const UniqueFd& epoll, int fd, uint64_t id);
// For epoll_wait. Rounded up: waking before a deadline would mean spinning until it has passed.
int timeout_ms_until(TimeNs deadline) noexcept;

}  // namespace fastgpu
