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

// Memory of an allocator for as long as this lives.
class LentMemory {
 public:
  LentMemory(Allocator& allocator, std::size_t size_bytes)
      : allocator_(allocator), memory_(allocator.allocate(size_bytes)) {}
  ~LentMemory() { allocator_.free(memory_); }
  LentMemory(const LentMemory&) = delete;
  LentMemory& operator=(const LentMemory&) = delete;

  std::byte* get() const noexcept { return memory_; }

 private:
  Allocator& allocator_;
  std::byte* const memory_;
};

}  // namespace fastgpu
