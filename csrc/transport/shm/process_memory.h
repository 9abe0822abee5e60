// Copies out of the private memory of another process on this host (process_vm_readv, CMA): a
// single copy, made by the reader. Whether the kernel allows it depends on Yama and on containers,
// so it is tried once and not guessed.
// Threading: read() by one thread at a time.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace fastgpu {

// A random value in the private memory of a process. With it a reader detects that the process has
// ended and a new process has the same id.
struct ProcessMark {
  const uint64_t* address = nullptr;
  uint64_t value = 0;

  static ProcessMark mine();
};

enum class MemoryRead : uint8_t {
  kDone,
  kGone,     // the process has ended, or the id is another one's by now
  kRefused,  // the process exists, but this memory cannot be read; errno has the reason
};

class ProcessMemory {
 public:
  // `pid` must come from the kernel (SO_PEERCRED): a peer that states its own id could state
  // another's. 0: no process.
  ProcessMemory(pid_t pid, const ProcessMark& mark);

  // Whether the memory of the process could be read at construction.
  bool readable() const noexcept { return readable_; }
  // Copies `size_bytes` from `source`, an address in the process.
  MemoryRead read(std::byte* target, const std::byte* source,
                  std::size_t size_bytes) const noexcept;

 private:
  const pid_t pid_;
  const ProcessMark mark_;
  const bool readable_;
};

// Whether another process could read this memory of ours. It cannot where a device driver has
// mapped it.
bool is_readable_by_others(const std::byte* memory, std::size_t size_bytes) noexcept;

}  // namespace fastgpu
