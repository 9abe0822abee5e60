// The payload buffers that one end of a pair of rings holds. A buffer goes from hand to hand: who
// has read a piece out of it writes a piece of its own there, for the way back, if it has one to
// send. So two ranks that exchange as much as they get use each other's buffers, and a cache line
// changes cores once for each piece that it carries: its reader has it when it becomes its writer.
// What one end has too many of it gives back.
//
// Whoever has a slot free has a buffer for it: a ring has twice as many buffers as slots, and of
// both rings' neither end holds and has under way so many that the other is left with fewer than
// its slots. (What is given back counts as under way until its sender hears of it.) So the two ways
// block each other no more than if each had buffers of its own, and a sender waits for slots only.
//
// Ownership: shared by an end's sender and its receiver of one lane; keeps both rings mapped.
// Threading: those of a lane's channels, one at a time.
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
    BufferName name;  // as this end tells it to the other
  };

  // The ring by which this end sends, whose buffers it holds from then on; and the other one. Raise
  // PeerLostError when the two have buffers of different sizes: pieces are cut to fit either's.
  void send_by(std::shared_ptr<const ShmRing> ring);
  void receive_by(std::shared_ptr<const ShmRing> ring);

  // The sender's: the slots that were published, and of them those that it knows were consumed.
  uint64_t published() const noexcept { return published_; }
  uint64_t consumed() const noexcept { return consumed_; }
  void count_published() noexcept { ++published_; }
  bool has_room();
  // Looks again at what was consumed and given back.
  void refresh();
  // Of those kept the last, whose lines are the nearest; else the one that has been back for the
  // longest. There is one where there is room.
  Buffer take();
  const Buffer* next() const noexcept;

  // The receiver's: where a buffer lies that the other end names; nullptr: there is none such.
  std::byte* find(BufferName name) const noexcept;
  // Keeps a buffer that was read, unless this end has enough: then it is to be given back.
  bool keep(BufferName name, std::byte* memory);

 private:
  uint64_t spare() const noexcept { return spares_in_ - spares_out_; }
  uint64_t held() const noexcept { return kept_.size() + spare(); }
  bool may_keep() const noexcept { return held() + (published_ - consumed_) < most_; }
  void join(std::shared_ptr<const ShmRing>& ring, std::shared_ptr<const ShmRing> joining);

  std::shared_ptr<const ShmRing> mine_;
  std::shared_ptr<const ShmRing> theirs_;
  std::vector<Buffer> kept_;             // a stack
  std::array<Buffer, kReturns> spares_;  // a queue: the n-th lies at n mod kReturns
  uint64_t spares_in_ = 0;
  uint64_t spares_out_ = 0;
  uint64_t most_ = 0;        // that this end may hold and have under way
  uint64_t published_ = 0;   // slots
  uint64_t consumed_ = 0;    // slots, as last seen
  uint64_t given_back_ = 0;  // buffers, as last seen
};

}  // namespace fastgpu
