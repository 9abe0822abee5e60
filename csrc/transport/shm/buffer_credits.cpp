#include "transport/shm/buffer_credits.h"

#include <string>
#include <utility>

#include "base/error.h"

namespace fastgpu {

void BufferCredits::send_by(std::shared_ptr<const ShmRing> ring) {
  join(mine_, std::move(ring));
  for (uint32_t n = 0; n < mine_->buffers(); ++n) {
    spares_[spares_in_++ % kReturns] = {mine_->buffer(n), {.buffer = n, .of_receiver = 0}};
  }
}

void BufferCredits::receive_by(std::shared_ptr<const ShmRing> ring) {
  join(theirs_, std::move(ring));
}

void BufferCredits::join(std::shared_ptr<const ShmRing>& ring,
                         std::shared_ptr<const ShmRing> joining) {
  const ShmRing* const other = &ring == &mine_ ? theirs_.get() : mine_.get();
  if (other != nullptr && other->buffer_bytes() != joining->buffer_bytes()) {
    const ShmRing& peers = &ring == &theirs_ ? *joining : *other;
    raise(ErrorKind::kPeerLost, "its ring has buffers of " + std::to_string(peers.buffer_bytes()) +
                                    " bytes, but this rank's has buffers of another size");
  }
  ring = std::move(joining);
  limit_ = mine_ ? mine_->buffers() : 0;
  if (theirs_) limit_ += theirs_->buffers() - theirs_->slots();
}

bool BufferCredits::has_room() {
  if (published_ - consumed_ < mine_->slots() && held() > 0) return true;
  refresh();
  return published_ - consumed_ < mine_->slots() && held() > 0;
}

// Loads `consumed` first. Then every buffer that was returned before those slots were consumed is
// visible, too.
void BufferCredits::refresh() {
  const RingWords& words = mine_->words();
  const uint64_t consumed = words.consumed.load(std::memory_order_acquire);
  if (consumed > published_) return;  // the peer is broken
  consumed_ = consumed;
  const uint64_t returned = words.returned.load(std::memory_order_acquire);
  if (returned - returned_ > kReturns) returned_ = returned - kReturns;  // the peer is broken
  for (; returned_ != returned; ++returned_) {
    const BufferName name = unpack(words.returns[returned_ % kReturns]);
    const bool is_mine = name.of_receiver == 0;
    const ShmRing* const ring = is_mine ? mine_.get() : theirs_.get();
    // A broken peer may name anything.
    if (ring == nullptr || name.buffer >= ring->buffers() || spare() == kReturns) continue;
    spares_[spares_in_++ % kReturns] = {ring->buffer(name.buffer), name};
  }
}

BufferCredits::Buffer BufferCredits::take() {
  if (kept_.empty()) return spares_[spares_out_++ % kReturns];
  const Buffer buffer = kept_.back();
  kept_.pop_back();
  return buffer;
}

const BufferCredits::Buffer* BufferCredits::next() const noexcept {
  if (!kept_.empty()) return &kept_.back();
  return spare() > 0 ? &spares_[spares_out_ % kReturns] : nullptr;
}

std::byte* BufferCredits::find(BufferName name) const noexcept {
  const ShmRing* const ring = name.of_receiver != 0 ? mine_.get() : theirs_.get();
  return ring != nullptr && name.buffer < ring->buffers() ? ring->buffer(name.buffer) : nullptr;
}

// The peer may have consumed more slots by now, so that this end may keep more.
bool BufferCredits::keep(BufferName name, std::byte* memory) {
  if (!may_keep() && mine_) refresh();
  if (!may_keep()) return false;
  kept_.push_back(
      {memory, {.buffer = name.buffer, .of_receiver = name.of_receiver == 0 ? 1U : 0U}});
  return true;
}

}  // namespace fastgpu
