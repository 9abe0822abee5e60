// Channels between the ranks of one host: a single-producer, single-consumer ring of slots in a
// memfd (ring.h, docs/wire.md). A payload travels in one of these ways:
//  - in the slot line, up to 16 bytes;
//  - copied in and out through buffers, which are small enough to stay in the cache
//    (buffer_credits.h);
//  - by reference, if it is in symmetric memory: the receiver reads it there, and the frame has
//    left once it was read;
//  - through a reply slot, if a reply is to be written over it (reply_slots.h);
//  - by a single copy (CMA) out of the sender's private memory, if the frame asks for it and the
//    kernel allows it (process_memory.h).
//
// Memory: the kernel allocates a page of a ring when it is first written: up to 1 MiB of buffers,
// and of each reply slot as much as the largest payload that was in it. A killed process leaves
// nothing behind, because a memfd has no name.
// Ownership: each end owns its mapping. Threading: channel.h.
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
  uint32_t slots = 8;                       // a power of two
  uint32_t buffer_bytes = 64 * 1024;        // a multiple of 64
  uint32_t reply_slots = 2;                 // at most 32
  uint32_t reply_slot_bytes = 1024 * 1024;  // a multiple of 64
  bool single_copy = true;                  // let the receiver read the sender's private memory
};

UniqueFd create_shm_ring(const ShmRingConfig& config);

// The state that a sender and a receiver share at this end of a lane (end.h).
struct ShmEnd;
std::shared_ptr<ShmEnd> make_shm_end();

// `peer` is rung when the other end may be asleep and there is something for it.
// `share` is called once per segment, before the first frame that refers to it. `share` must send
// the segment's descriptor to the peer, which passes it to PeerSegments::add().
// `heap` is this process's symmetric memory; nullptr: none.
std::unique_ptr<SendChannel> make_shm_sender(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                             std::shared_ptr<ShmEnd> end, const SymmetricHeap* heap,
                                             std::function<void(uint32_t segment)> share);
// `sender` is the process that made the ring, as the kernel names it; 0: read no private memory.
// `heap` is this process's symmetric memory, in which replies arrive. try_recv() raises
// AbortedError for a reply to memory that was revoked meanwhile: it may be lost.
std::unique_ptr<RecvChannel> make_shm_receiver(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                               std::shared_ptr<ShmEnd> end,
                                               std::shared_ptr<PeerSegments> segments,
                                               const SymmetricHeap* heap = nullptr,
                                               pid_t sender = 0);

}  // namespace fastgpu
