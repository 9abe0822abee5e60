// Memory of pretended devices, and pinned memory. Each piece is a memfd, which peers map, too.
//
// Ownership: a mapping ends with its last user. Threading: any thread.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/unique_fd.h"

namespace fastgpu::test {

inline uint64_t inode_of(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) raise_system(ErrorKind::kAborted, "cannot fstat", errno);
  return status.st_ino;
}

// All memory of this process that a device can use.
class PretendedMemory {
 public:
  static PretendedMemory& of_process() {
    static PretendedMemory all;
    return all;
  }

  // Maps a file, or finds where it is mapped unless that must be `apart`.
  std::byte* map(UniqueFd fd, std::size_t size_bytes, bool apart = false) {
    const std::lock_guard lock(mutex_);
    const uint64_t inode = inode_of(fd.get());
    for (auto& [base, range] : ranges_) {
      if (apart || range.inode != inode) continue;
      ++range.users;
      return base;
    }
    void* memory = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (memory == MAP_FAILED) raise_system(ErrorKind::kAborted, "cannot map a device", errno);
    auto* const base = static_cast<std::byte*>(memory);
    ranges_.emplace(base, Range{size_bytes, inode, std::move(fd), 1});
    return base;
  }

  void unmap(std::byte* base) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = ranges_.find(base);
    if (found == ranges_.end() || --found->second.users > 0) return;
    ::munmap(base, found->second.size_bytes);
    ranges_.erase(found);
  }

  UniqueFd descriptor(std::byte* base) {
    const std::lock_guard lock(mutex_);
    return duplicate(ranges_.at(base).fd.get(), "pretended device memory");
  }

  void require(const std::byte* memory, std::size_t size_bytes) {
    const std::lock_guard lock(mutex_);
    for (const auto& [base, range] : ranges_) {
      if (memory >= base && memory + size_bytes <= base + range.size_bytes) return;
    }
    raise(ErrorKind::kAborted, "cannot use " + std::to_string(size_bytes) +
                                   " bytes: they are not memory of a pretended device");
  }

 private:
  struct Range {
    std::size_t size_bytes = 0;
    uint64_t inode = 0;
    UniqueFd fd;
    int users = 0;
  };
  std::mutex mutex_;
  std::map<std::byte*, Range> ranges_;
};

}  // namespace fastgpu::test
