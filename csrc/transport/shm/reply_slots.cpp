#include "transport/shm/reply_slots.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace fastgpu {

void ReplySlots::send_by(std::shared_ptr<const ShmRing> ring) { ring_ = std::move(ring); }

std::optional<uint32_t> ReplySlots::reserve(const FrameId& reply) {
  const auto slot = static_cast<uint32_t>(std::countr_one(reserved_));
  if (slot >= ring_->reply_slots()) return std::nullopt;
  reserved_ |= uint32_t{1} << slot;
  replies_[slot] = reply;
  return slot;
}

const std::byte* ReplySlots::find_reserved(const FrameId& reply) const noexcept {
  for (uint32_t left = reserved_; left != 0; left &= left - 1) {
    const auto slot = static_cast<uint32_t>(std::countr_zero(left));
    if (replies_[slot] == reply) return ring_->reply_slot(slot);
  }
  return nullptr;
}

void ReplySlots::release_reserved(const FrameId& reply) noexcept {
  for (uint32_t left = reserved_; left != 0; left &= left - 1) {
    const auto slot = static_cast<uint32_t>(std::countr_zero(left));
    if (replies_[slot] == reply) reserved_ &= ~(uint32_t{1} << slot);
  }
}

void ReplySlots::add(const ReplyRequest& request) {
  if (!requests_.empty() && requests_.front().reply.sequence != request.reply.sequence) {
    requests_.clear();
  }
  requests_.push_back(request);
}

std::optional<ReplyRequest> ReplySlots::take_request(const FrameId& reply) {
  const auto found = std::ranges::find(requests_, reply, &ReplyRequest::reply);
  if (found == requests_.end()) return std::nullopt;
  const ReplyRequest request = *found;
  requests_.erase(found);
  return request;
}

}  // namespace fastgpu
