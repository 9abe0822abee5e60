#include "transport/holdings.h"

#include <utility>

namespace fastgpu {

std::shared_ptr<Holdings> make_holdings() { return std::make_shared<Holdings>(); }

void Holdings::send_by(std::shared_ptr<const ShmRing> ring) {
  mine_ = std::move(ring);
  for (uint32_t n = 0; n < mine_->buffers(); ++n) {
    spares_[spares_in_++ % kReturns] = {mine_->buffer(n), {.buffer = n, .of_receiver = 0}};
  }
  set_most();
}

void Holdings::receive_by(std::shared_ptr<const ShmRing> ring) {
  theirs_ = std::move(ring);
  set_most();
}

void Holdings::set_most() noexcept {
  most_ = mine_ ? mine_->buffers() : 0;
  if (theirs_) most_ += theirs_->buffers() - theirs_->slots();
}

bool Holdings::has_room() {
  if (published_ - consumed_ < mine_->slots() && held() > 0) return true;
  refresh();
  return published_ - consumed_ < mine_->slots() && held() > 0;
}

// `consumed` first: what was given back with it is there when it is seen.
void Holdings::refresh() {
  const RingWords& words = mine_->words();
  consumed_ = words.consumed.load(std::memory_order_acquire);
  const uint64_t given_back = words.given_back.load(std::memory_order_acquire);
  for (; given_back_ != given_back; ++given_back_) {
    const BufferName name = unpack(words.returns[given_back_ % kReturns]);
    const bool is_mine = name.of_receiver == 0;
    const ShmRing* const ring = is_mine ? mine_.get() : theirs_.get();
    // What a broken peer makes up is passed over.
    if (ring == nullptr || name.buffer >= ring->buffers() || spare() == kReturns) continue;
    spares_[spares_in_++ % kReturns] = {ring->buffer(name.buffer), name};
  }
}

Holdings::Buffer Holdings::take() {
  if (kept_.empty()) return spares_[spares_out_++ % kReturns];
  const Buffer buffer = kept_.back();
  kept_.pop_back();
  return buffer;
}

const Holdings::Buffer* Holdings::next() const noexcept {
  if (!kept_.empty()) return &kept_.back();
  return spare() > 0 ? &spares_[spares_out_ % kReturns] : nullptr;
}

std::byte* Holdings::find(BufferName name) const noexcept {
  const ShmRing* const ring = name.of_receiver != 0 ? mine_.get() : theirs_.get();
  return ring != nullptr && name.buffer < ring->buffers() ? ring->buffer(name.buffer) : nullptr;
}

bool Holdings::keep(BufferName name) {
  if (!may_keep() && mine_) refresh();
  if (!may_keep()) return false;
  kept_.push_back(
      {find(name), {.buffer = name.buffer, .of_receiver = name.of_receiver == 0 ? 1U : 0U}});
  return true;
}

}  // namespace fastgpu
