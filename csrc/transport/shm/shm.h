// Channels between ranks that can map each other's memory: a single-producer, single-consumer ring
// of slots in a memfd. A slot is a control line (flag, header, up to 16 bytes inline), which names
// a buffer of payload; few and small enough of them that they stay in cache. A payload in symmetric
// memory is not copied: the slot names segment and offset, the receiver reads the sender's bytes in
// place, and the frame has left when the receiver is done with it. A payload whose answer comes
// back into its place goes by way of a stage, where the receiver writes the answer; a large one
// that had better stay where it is, is read out of the sender's own memory. A ring's pages are
// taken when they are first written, and kept: up to 1 MiB of buffers, and as much of a stage as
// the largest answered frame had, seldom of both stages. Ownership: each end owns its mapping.
// Nothing is left behind by a killed process: memfds have no name.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <memory>

#include "base/unique_fd.h"
#include "memory/symmetric_heap.h"
#include "transport/channel.h"
#include "transport/wait/doorbell.h"

namespace fastgpu {

struct ShmRingConfig {
  uint32_t slots = 8;                  // a power of two
  uint32_t slot_bytes = 64 * 1024;     // of a buffer, a multiple of 64
  uint32_t stages = 2;                 // at most 32
  uint32_t stage_bytes = 1024 * 1024;  // a multiple of 64
  bool single_copy = true;             // the receiver may read the memory of who makes the ring
};

class BufferCredits;
// For an end's sender and receiver of one lane, which share it.
std::shared_ptr<BufferCredits> make_buffer_credits();

UniqueFd create_shm_ring(const ShmRingConfig& config);

// `peer` is rung when the other end may be asleep and has something to look at.
// `share` is called, once a segment, before the first frame that names it: it must get the
// segment's descriptor to the peer, which adds it to its PeerSegments.
// `heap` is this process's, where answers in place arrive; memory of it that was taken back cannot
// hold one any more, which try_recv raises as AbortedError.
std::unique_ptr<SendChannel> make_shm_sender(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                             std::shared_ptr<BufferCredits> credits,
                                             const SymmetricHeap* heap,
                                             std::function<void(uint32_t segment)> share);
// `sender` is the process that made the ring, as the kernel tells it, whose private memory is read
// where it offers that; 0: none is.
std::unique_ptr<RecvChannel> make_shm_receiver(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                               std::shared_ptr<BufferCredits> credits,
                                               std::shared_ptr<PeerSegments> segments,
                                               const SymmetricHeap* heap = nullptr,
                                               pid_t sender = 0);

}  // namespace fastgpu
