// The payload buffers that one end of a pair of rings holds (docs/wire.md, "Buffer credits").
//
// The two rings of a pair share their buffers. An end that has read a piece may keep the buffer and
// write its own next piece there. So in an exchange each cache line moves between cores once per
// piece: a core writes the lines that it has just read. An end with enough buffers returns the
// buffer instead.
//
// Invariant: a sender with a free slot always has a free buffer, so a sender only ever waits for
// slots, and the two directions do not block each other. It holds because a ring has twice as many
// buffers as slots, and no end holds or has in flight so many buffers that fewer than its slots
// remain for the other end. A buffer that is returned to an end counts as in flight there until the
// end has seen it.
//
// Ownership: shared by the sender and the receiver of one end; keeps both rings mapped.
// Threading: one thread at a time, as the channels of a lane.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "transport/shm/ring.h"

namespace fastgpu {

class BufferCredits {
 public:
  struct Buffer {
    std::byte* memory = nullptr;
    BufferName name;  // the name of the buffer in a slot line that this end writes
  };

  // Set the rings for sending and for receiving. send_by() gives the end all buffers of the ring.
  // Both raise PeerLostError if the rings have buffers of different sizes.
  void send_by(std::shared_ptr<const ShmRing> ring);
  void receive_by(std::shared_ptr<const ShmRing> ring);

  // For the sender: the number of slots published, and of slots known to be consumed.
  uint64_t published() const noexcept { return published_; }
  uint64_t consumed() const noexcept { return consumed_; }
  void count_published() noexcept { ++published_; }
  // Whether there is a free slot, and so a free buffer.
  bool has_room();
  // Reads again what the peer has consumed and returned.
  void refresh();
  // Removes and returns a free buffer. Prefers the buffer kept last, because its lines are in this
  // core's cache; else the one that was returned first. There is one whenever has_room().
  Buffer take();
  // What take() would return; nullptr: none.
  const Buffer* next() const noexcept;

  // For the receiver: the memory of a buffer that the peer has named; nullptr: it does not exist.
  std::byte* find(BufferName name) const noexcept;
  // Keeps a buffer that was read. False: this end has enough, and must return it.
  bool keep(BufferName name, std::byte* memory);

 private:
  uint64_t spare() const noexcept { return spares_in_ - spares_out_; }
  uint64_t held() const noexcept { return kept_.size() + spare(); }
  bool may_keep() const noexcept { return held() + (published_ - consumed_) < limit_; }
  void join(std::shared_ptr<const ShmRing>& ring, std::shared_ptr<const ShmRing> joining);

  std::shared_ptr<const ShmRing> mine_;
  std::shared_ptr<const ShmRing> theirs_;
  std::vector<Buffer> kept_;             // a stack
  std::array<Buffer, kReturns> spares_;  // a queue: the n-th is at n mod kReturns
  uint64_t spares_in_ = 0;
  uint64_t spares_out_ = 0;
  uint64_t limit_ = 0;      // the limit for buffers held and in flight
  uint64_t published_ = 0;  // slots
  uint64_t consumed_ = 0;   // slots, when last read
  uint64_t returned_ = 0;   // buffers, when last read
};

}  // namespace fastgpu
