// Files in memory that are passed to peers (memfd).
// Thread safety: free functions without state.
#pragma once

#include <cstddef>

#include "base/unique_fd.h"

namespace fastgpu {

// A file of zeros whose size cannot change. Raises OutOfResourcesError. `name` is shown in /proc.
UniqueFd make_memory_file(const char* name, std::size_t size_bytes);

}  // namespace fastgpu
