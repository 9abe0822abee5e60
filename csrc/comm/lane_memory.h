// The memory that the lanes of a group need on this rank's GPU: words that peers write, counters,
// staging memory for tensors, and where this rank maps the staging memory and segments of its
// peers.
//
// The words are one block of the heap, with the same layout on every rank. A peer's kernel may
// still store into it, so the destructor hands it to RetiredWords, which frees it once every peer
// has reported that its kernels have ended.
//
// Ownership: owns the rest, a stream and pinned memory for transfers; runtime and peers outlive it.
// The destructor may run only after this rank's kernels have ended.
// Threading: set_up() on a caller's thread; then any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "comm/mapped_peers.h"
#include "comm/retired_words.h"
#include "device/heap.h"
#include "engine/device/lane.h"
#include "engine/device/small.h"

namespace fastgpu {

class LaneMemory {
 public:
  static constexpr int kMaxLanes = 16;
  static constexpr uint32_t kSmallWords = 4096;  // of 4 bytes: the most of a small all_reduce

  // Buffers begin at multiples of 512 bytes, like blocks of the heap.
  static constexpr std::size_t aligned(std::size_t size_bytes) {
    return (size_bytes + 511) / 512 * 512;
  }

  LaneMemory(Runtime& runtime, int device, const MemberKey& member, int world,
             std::size_t staging_bytes);
  ~LaneMemory();
  LaneMemory(const LaneMemory&) = delete;
  LaneMemory& operator=(const LaneMemory&) = delete;

  // The spans of this memory in the heap, which the ranks exchange for set_up(). From now on peers
  // may store into the words.
  struct Spans {
    SegmentSpan words;
    SegmentSpan staging;
  };
  Spans announce();
  // No peer has called set_up(), and none will.
  void withdraw() noexcept { reach_.store(Reach::kOwn); }
  void set_up(Communicator& communicator, MappedPeers& peers, const std::vector<Spans>& spans);

  // The number of the word that says how a launch has ended, for the host. The word is 0 at first.
  // Numbers come again after kEnds launches.
  uint32_t take_end() noexcept;
  // The word of all launches that graphs have captured.
  static constexpr uint32_t kEndInGraphs = 0;
  // The stop word by which the kernel has ended; 0 if none has.
  uint64_t ended(uint32_t end) const noexcept {
    return __atomic_load_n(&words()->ended[end], __ATOMIC_ACQUIRE);
  }

  // For a launch whose waits may take `timeout_ns`. Buffers, table, key and factor are left open.
  device::LaneArgs lane_args(uint64_t timeout_ns, uint32_t end) const;
  device::SmallArgs small_args(uint64_t timeout_ns, uint32_t end) const;
  std::byte* staging() const { return staging_.get(); }
  std::size_t staging_bytes() const { return staging_bytes_; }
  // The location, for peers, of byte `offset_bytes` of the staging memory.
  static uint64_t location_in_staging(std::size_t offset_bytes) { return offset_bytes; }

  // From now on this rank's kernels find the peer's segment there. Raises InvalidArgumentError if
  // its number is too large for them.
  void add_segment(int peer, uint32_t segment, const std::byte* base);
  // The span of a tensor, if it lies in one segment of the heap that peers' kernels can find.
  std::optional<SegmentSpan> find(const std::byte* tensor, std::size_t size_bytes) const;
  // Its location for peers.
  static uint64_t location_of(const SegmentSpan& span) {
    return (uint64_t{span.segment} + 1) << device::Location::kSegmentShift | span.offset_bytes;
  }
  // The peer's staging memory, as this rank maps it.
  const std::byte* staging_of(int peer) const { return stagings_[static_cast<std::size_t>(peer)]; }

  // Before the first launch of a kernel: see DeviceRuntime::load().
  void load(const void* kernel) { devices_.load(stream_.handle.device, kernel); }
  // Loads the scaling kernels, before the first launch that multiplies or divides numbers.
  void load_scaling(DType dtype);
  // Memory of the GPU, for as long as the result lives.
  std::unique_ptr<LentMemory> lend(std::size_t size_bytes) {
    return std::make_unique<LentMemory>(heap_, size_bytes);
  }
  // The same with a copy of `bytes`. Blocks until the GPU has it, but waits for no kernel.
  std::unique_ptr<LentMemory> upload(const void* bytes, std::size_t size_bytes);

  // Kernels of this rank may run after the destructor, so no rank may free the group's words.
  void keep_words() noexcept { reach_.store(Reach::kLaterKernels); }

  // Ends all waits of this rank's kernels, now and from now on.
  void stop() noexcept { tell(device::HostWord::kStopAll); }
  // Ends the waits for a rank that has left, unless what they wait for is there.
  void peer_left(int rank) noexcept { tell(device::HostWord::departed(rank)); }
  // The record of this rank's first failure. Blocks until the GPU has copied it.
  device::Control failure_record();

 private:
  static constexpr uint32_t kEnds = 1024;
  static constexpr std::size_t kChunkBytes = 64 * 1024;
  // How many segments of a rank kernels can find: the staging memory, then segments of the heap.
  static constexpr std::size_t kSegments = 256;
  struct HostWords {
    uint64_t told;  // device::HostWord
    uint64_t ended[kEnds];
  };
  // Offsets in the block of words.
  struct Layout {
    explicit Layout(int world);
    std::size_t mail, slots, cleared;                    // peers write here, and the control at 0
    std::size_t operations, small_operations, segments;  // this rank's
    std::size_t size_bytes;
  };
  // Which kernels may use the words.
  enum class Reach : uint8_t { kOwn, kPeers, kLaterKernels };
  struct OwnStream {
    OwnStream(DeviceRuntime& runtime, int device)
        : devices(runtime), handle(runtime.make_stream(device)) {}
    ~OwnStream() { devices.destroy(handle); }
    OwnStream(const OwnStream&) = delete;
    OwnStream& operator=(const OwnStream&) = delete;

    DeviceRuntime& devices;
    const StreamHandle handle;
  };

  void tell(uint64_t bits) noexcept { __atomic_fetch_or(&words()->told, bits, __ATOMIC_RELEASE); }
  HostWords* words() const noexcept { return reinterpret_cast<HostWords*>(pinned_.get()); }
  std::byte* chunk() const noexcept { return pinned_.get() + sizeof(HostWords); }
  Spans spans() const;
  device::Group group(uint64_t timeout_ns, uint32_t end) const;
  // Both pass through the chunk, and wait for the GPU.
  void write(std::byte* target, const void* bytes, std::size_t size_bytes);
  void read(void* bytes, const std::byte* source, std::size_t size_bytes);

  DeviceRuntime& devices_;
  DeviceHeap& heap_;
  RetiredWords& retired_words_;
  const MemberKey member_;
  const int world_;
  const Layout layout_;
  const std::size_t staging_bytes_;
  const LentMemory pinned_;  // HostWords, then a chunk for transfers
  const OwnStream stream_;
  const LentMemory staging_;
  std::byte* const block_;     // of words
  std::mutex transfer_mutex_;  // guards the chunk
  std::atomic<uint32_t> launches_{0};
  std::atomic<Reach> reach_{Reach::kOwn};
  // By rank: where this rank maps them; fixed by set_up().
  std::vector<std::byte*> blocks_;
  std::vector<std::byte*> stagings_;
};

}  // namespace fastgpu
