// Reads the private memory of another process on this host, where the kernel lets it
// (process_vm_readv): one copy, by the reader alone. Whether it does, Yama and containers may have
// a say in, so it is tried and not guessed.
// Threading: read() by one thread at a time.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace fastgpu {

// Tells a process from one that got its number later: a random value, and where that lies in its
// private memory.
struct ProcessMark {
  const uint64_t* where = nullptr;
  uint64_t value = 0;

  static ProcessMark mine();
};

enum class MemoryRead : uint8_t {
  kDone,
  kGone,     // the process has ended, or it is another one
  kRefused,  // it is there, but this memory of its cannot be read: errno says why
};

class ProcessMemory {
 public:
  // `pid` as the kernel gives it, of whoever is at the other end of a socket, say: a process that
  // names its own number could name another's. 0: of nobody.
  ProcessMemory(pid_t pid, const ProcessMark& mark);

  // Whether the process's memory could be read when this was made.
  bool readable() const noexcept { return readable_; }
  // Copies `size_bytes` from `source`, which lies in the process's memory.
  MemoryRead read(std::byte* target, const std::byte* source,
                  std::size_t size_bytes) const noexcept;

 private:
  const pid_t pid_;
  const ProcessMark mark_;
  const bool readable_;
};

// Whether others could read this memory of our own: what a device driver maps, they may not.
bool is_readable_by_others(const std::byte* memory, std::size_t size_bytes) noexcept;

}  // namespace fastgpu
