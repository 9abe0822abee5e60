// Copies that bypass the caches. An ordinary store to a line that is in no cache reads the line
// from memory first, so copying a line takes three memory transfers. A streaming store takes two.
// It pays off for data that would be evicted from the caches before it is read again.
//
// Threading: pure functions; cache_bytes() reads the system once.
#pragma once

#include <cstddef>

namespace fastgpu {

// Like memcpy, but whole cache lines of the target bypass the caches if the CPU supports it. On
// return, the stores are ordered like ordinary stores.
void copy_streaming(std::byte* target, const std::byte* source, std::size_t size_bytes);

// The total size of the machine's last-level caches; 32 MiB if the system does not tell.
std::size_t cache_bytes();

}  // namespace fastgpu
