// Reads the private memory of another process on this host, where the kernel lets it
// (process_vm_readv): one copy, by the reader alone. Whether it does, Yama and containers may have
// a say in, so it is tried and not guessed.
// Threading: read() by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastgpu {

// Tells a process from any other, one that got its number later included: a random value and where
// in its private memory that lies.
struct ProcessMark {
  int64_t pid = 0;
  const uint64_t* where = nullptr;  // in that process's memory
  uint64_t value = 0;

  static ProcessMark mine();
};

class ProcessMemory {
 public:
  explicit ProcessMemory(const ProcessMark& owner);

  // Whether the owner's memory could be read when this was made.
  bool readable() const noexcept { return readable_; }
  // Copies `size_bytes` from `source`, which lies in the owner's memory. False where that is not
  // possible, with errno as the system left it: the owner has ended, has unmapped it, or may not be
  // read any more.
  bool read(std::byte* target, const std::byte* source, std::size_t size_bytes) const noexcept;

 private:
  const ProcessMark owner_;
  const bool readable_;
};

}  // namespace fastgpu
