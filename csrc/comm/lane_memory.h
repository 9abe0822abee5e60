// The memory that the lanes of a group need on this rank's GPU: words that peers write, counters, a
// window for tensors, and where this rank maps that of its peers.
//
// The words are one block of the heap, with the same layout on every rank. It never goes back to
// the heap: a kernel of a peer may store there at any time, as after a failure that this rank
// missed. Ownership: owns the window, a stream for short transfers and pinned words; runtime and
// peers outlive it. Threading: set_up() on a caller's thread; then any thread, but record() by one.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/mapped_peers.h"
#include "device/heap.h"
#include "engine/device/lane.h"
#include "engine/device/small.h"

namespace fastgpu {

class LaneMemory {
 public:
  static constexpr int kMaxLanes = 16;
  static constexpr uint32_t kSmallWords = 4096;  // of 4 bytes: the most of a small all_reduce
  static constexpr std::size_t kWindowBytes = std::size_t{64} << 20;

  LaneMemory(Runtime& runtime, int device, int rank, int world);
  ~LaneMemory();
  LaneMemory(const LaneMemory&) = delete;
  LaneMemory& operator=(const LaneMemory&) = delete;

  // Where it lies in the heap. The ranks exchange their places, then map each other's.
  struct Places {
    SegmentSpan words;
    SegmentSpan window;
  };
  Places places() const;
  void set_up(Communicator& communicator, MappedPeers& peers, const std::vector<Places>& places);

  // For calls whose waits may take `patience_ns`. Buffers, table, key and factor are left open.
  device::LaneArgs lane_args(uint64_t patience_ns) const;
  device::SmallArgs small_args(uint64_t patience_ns) const;
  std::byte* window() const { return window_.get(); }
  // Of the window's byte `offset_bytes`, for peers.
  static uint64_t location_in_window(std::size_t offset_bytes) { return offset_bytes; }
  // Where this rank maps the window of a peer.
  const std::byte* window_of(int peer) const { return windows_[static_cast<std::size_t>(peer)]; }

  // Before the first launch of a kernel: see DeviceRuntime::load().
  void load(const void* kernel) { devices_.load(stream_.device, kernel); }
  // Memory of the GPU with a copy of `bytes`. Blocks until the GPU has it.
  std::unique_ptr<LentMemory> upload(const void* bytes, std::size_t size_bytes);

  // Ends all waits of this rank's kernels, now and from now on.
  void stop() noexcept { tell(device::HostWord::kStopAll); }
  // Ends the waits for a rank that has left, unless what they wait for is there.
  void peer_left(int rank) noexcept { tell(device::HostWord::departed(rank)); }
  // The stop word by which a kernel has ended; 0 if none has.
  uint64_t ended() const noexcept { return __atomic_load_n(&words()->ended, __ATOMIC_ACQUIRE); }
  // This rank's record. Blocks until the GPU has copied it.
  device::Control record();

 private:
  struct Words {
    uint64_t told;  // device::HostWord
    uint64_t ended;
  };
  // Offsets in a block.
  struct Layout {
    explicit Layout(int world);
    std::size_t mail, slots, cleared;                   // peers write here, and the control at 0
    std::size_t operations, small_operations, windows;  // this rank's
    std::size_t size_bytes;
  };

  void tell(uint64_t bits) noexcept { __atomic_fetch_or(&words()->told, bits, __ATOMIC_RELEASE); }
  Words* words() const noexcept { return reinterpret_cast<Words*>(pinned_.get()); }
  device::Group group(uint64_t patience_ns) const;
  void copy_and_wait(std::byte* target, const std::byte* source, std::size_t size_bytes);

  Runtime& runtime_;
  DeviceRuntime& devices_;
  DeviceHeap& heap_;
  const int rank_;
  const int world_;
  const Layout layout_;
  const LentMemory pinned_;  // Words, then room for a record
  const StreamHandle stream_;
  const LentMemory window_;
  std::byte* const block_;  // of words
  // By rank: where this rank maps them; fixed by set_up().
  std::vector<std::byte*> blocks_;
  std::vector<std::byte*> windows_;
};

}  // namespace fastgpu
