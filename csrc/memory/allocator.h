// Where memory comes from: shared segments of this host, or memory of a device.
// Thread safety: all calls, any thread.
#pragma once

#include <cstddef>

namespace fastgpu {

class Allocator {
 public:
  virtual ~Allocator() = default;
  // Raises OutOfResourcesError, or std::bad_alloc for a size that no machine has.
  virtual std::byte* allocate(std::size_t size_bytes) = 0;
  virtual void free(std::byte* memory) noexcept = 0;
};

}  // namespace fastgpu
