#include "transport/process_memory.h"

#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <random>

namespace fastgpu {
namespace {

uint64_t random_value() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

}  // namespace

ProcessMark ProcessMark::mine() {
  static const uint64_t value = random_value();
  return {.pid = ::getpid(), .where = &value, .value = value};
}

ProcessMemory::ProcessMemory(const ProcessMark& owner)
    : owner_(owner), readable_(owner.pid > 0 && read(nullptr, nullptr, 0)) {}

// The mark comes along with every read, so that what was read is the owner's.
bool ProcessMemory::read(std::byte* target, const std::byte* source,
                         std::size_t size_bytes) const noexcept {
  uint64_t value = 0;
  const std::array<iovec, 2> local{iovec{&value, sizeof value}, iovec{target, size_bytes}};
  const std::array<iovec, 2> remote{iovec{const_cast<uint64_t*>(owner_.where), sizeof value},
                                    iovec{const_cast<std::byte*>(source), size_bytes}};
  const std::size_t parts = size_bytes > 0 ? 2 : 1;
  const ssize_t copied = ::process_vm_readv(static_cast<pid_t>(owner_.pid), local.data(), parts,
                                            remote.data(), parts, 0);
  return copied == static_cast<ssize_t>(sizeof value + size_bytes) && value == owner_.value;
}

}  // namespace fastgpu
