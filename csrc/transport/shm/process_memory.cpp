#include "transport/shm/process_memory.h"

#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/random.h"

namespace fastgpu {
namespace {

iovec part_of(const void* memory, std::size_t size_bytes) {
  return {const_cast<void*>(memory), size_bytes};
}

}  // namespace

ProcessMark ProcessMark::mine() {
  static const uint64_t value = random_u64();
  return {.address = &value, .value = value};
}

ProcessMemory::ProcessMemory(pid_t pid, const ProcessMark& mark)
    : pid_(pid),
      mark_(mark),
      readable_(pid > 0 && mark.address != nullptr &&
                read(nullptr, nullptr, 0) == MemoryRead::kDone) {}

// Every read includes the mark, before the payload, so that it is known whose memory was read. If
// the mark is right but bytes are missing, the kernel could not read the payload; it sets no errno
// for that.
MemoryRead ProcessMemory::read(std::byte* target, const std::byte* source,
                               std::size_t size_bytes) const noexcept {
  uint64_t value = 0;
  const std::array<iovec, 2> local{part_of(&value, sizeof value), part_of(target, size_bytes)};
  const std::array<iovec, 2> remote{part_of(mark_.address, sizeof value),
                                    part_of(source, size_bytes)};
  const std::size_t parts = size_bytes > 0 ? 2 : 1;
  const ssize_t copied = ::process_vm_readv(pid_, local.data(), parts, remote.data(), parts, 0);
  if (copied < 0) return errno == EPERM ? MemoryRead::kRefused : MemoryRead::kGone;
  if (copied < static_cast<ssize_t>(sizeof value) || value != mark_.value) return MemoryRead::kGone;
  if (copied == static_cast<ssize_t>(sizeof value + size_bytes)) return MemoryRead::kDone;
  errno = EFAULT;
  return MemoryRead::kRefused;
}

bool is_readable_by_others(const std::byte* memory, std::size_t size_bytes) noexcept {
  std::array<std::byte, 2> ends{};
  const iovec local = part_of(ends.data(), ends.size());
  const std::array<iovec, 2> remote{part_of(memory, 1), part_of(memory + size_bytes - 1, 1)};
  return ::process_vm_readv(::getpid(), &local, 1, remote.data(), remote.size(), 0) ==
         static_cast<ssize_t>(ends.size());
}

}  // namespace fastgpu
