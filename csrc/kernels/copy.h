// Copies that leave the caches to others. To store to a line that no cache has costs a read of it
// before the write: three transfers for a byte that memory gets, where a copy past the caches takes
// two. It pays for what would be gone from the caches anyway before somebody reads it.
// Thread safety: pure functions; cache_bytes() looks once.
#pragma once

#include <cstddef>

namespace fastgpu {

// As memcpy, but whole lines of the target go past the caches, where the CPU can do that. When it
// returns, they are as visible to other threads as plain stores.
void copy_streaming(std::byte* target, const std::byte* source, std::size_t size_bytes);

// What the machine's last-level caches hold together; 32 MiB where the system does not say.
std::size_t cache_bytes();

}  // namespace fastgpu
