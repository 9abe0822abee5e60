// Scratch memory for operations. Freed blocks are kept for later operations: consecutive calls
// often need the same size, and fresh pages cost more than the copy into them. Bounded: a pool
// keeps at most kMaxKeptBytes unused. Ownership: a Scratch shares the ownership of its pool. Thread
// safety: ScratchPool, all calls, any thread; Scratch, none.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "memory/allocator.h"

namespace fastgpu {

// Up to this size an operation takes its scratch when it starts, so that one block, which stays in
// the cache, serves all operations in turn. A larger one takes it when it is called, because then
// its caller can still be told that there is no memory.
inline constexpr std::size_t kSmallScratchBytes = 64 * 1024;

class ScratchPool;

// A block of a pool, returned to it by the destructor. It may be larger than requested. It is
// aligned to a cache line and not cleared.
class Scratch {
 public:
  Scratch() = default;
  // Raises std::bad_alloc.
  Scratch(const std::shared_ptr<ScratchPool>& pool, std::size_t size_bytes);
  Scratch(Scratch&& other) noexcept { swap(other); }
  Scratch& operator=(Scratch&& other) noexcept {
    Scratch(std::move(other)).swap(*this);
    return *this;
  }
  ~Scratch();

  std::byte* memory() const noexcept { return memory_; }
  std::size_t size_bytes() const noexcept { return size_bytes_; }
  void swap(Scratch& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(memory_, other.memory_);
    std::swap(size_bytes_, other.size_bytes_);
  }

 private:
  std::shared_ptr<ScratchPool> pool_;
  std::byte* memory_ = nullptr;
  std::size_t size_bytes_ = 0;
};

class ScratchPool {
 public:
  static constexpr std::size_t kMaxKeptBytes = std::size_t{256} << 20;
  static constexpr std::size_t kMaxKeptBlocks = 16;

  struct Block {
    std::byte* memory = nullptr;
    std::size_t size_bytes = 0;
  };

  // Blocks come from `allocator`, which outlives the pool, such as symmetric memory, which peers on
  // this host can read. Without one, blocks are in private memory.
  explicit ScratchPool(Allocator* allocator = nullptr) : allocator_(allocator) {}
  ~ScratchPool() {
    for (const Block& block : kept_) release(block);
  }
  ScratchPool(const ScratchPool&) = delete;
  ScratchPool& operator=(const ScratchPool&) = delete;

  Block take(std::size_t size_bytes) {
    {
      const std::lock_guard lock(mutex_);
      for (Block& block : kept_) {
        // A block that is far too large is left for another operation.
        if (block.size_bytes < size_bytes || block.size_bytes > 4 * size_bytes + 65536) continue;
        const Block found = block;
        kept_bytes_ -= found.size_bytes;
        block = kept_.back();
        kept_.pop_back();
        return found;
      }
    }
    const std::size_t rounded = (size_bytes + 63) / 64 * 64;
    if (allocator_ != nullptr) return {allocator_->allocate(rounded), rounded};
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, rounded));
    if (memory == nullptr) throw std::bad_alloc();
    return {memory, rounded};
  }

  void give_back(const Block& block) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (kept_.size() < kMaxKeptBlocks && kept_bytes_ + block.size_bytes <= kMaxKeptBytes) {
        kept_.push_back(block);
        kept_bytes_ += block.size_bytes;
        return;
      }
    }
    release(block);
  }

 private:
  void release(const Block& block) noexcept {
    allocator_ != nullptr ? allocator_->free(block.memory) : std::free(block.memory);
  }

  Allocator* const allocator_;
  std::mutex mutex_;  // guards what follows
  std::vector<Block> kept_;
  std::size_t kept_bytes_ = 0;
};

inline Scratch::Scratch(const std::shared_ptr<ScratchPool>& pool, std::size_t size_bytes) {
  const ScratchPool::Block block = pool->take(size_bytes);
  pool_ = pool;
  memory_ = block.memory;
  size_bytes_ = block.size_bytes;
}

inline Scratch::~Scratch() {
  if (pool_ != nullptr) pool_->give_back({memory_, size_bytes_});
}

}  // namespace fastgpu
