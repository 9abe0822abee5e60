// The sending end of a shared-memory ring.
#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/cache_lines.h"
#include "transport/shm/end.h"
#include "transport/shm/ring.h"
#include "transport/shm/shm.h"

namespace fastgpu {
namespace {

// Below this, copying takes less time than waiting until the receiver has read the payload.
constexpr uint64_t kLeastReferenceBytes = 4096;
// Below this, a reply in place saves no more than its bookkeeping costs.
constexpr uint64_t kLeastReplySlotBytes = 1024;
// While a larger piece is copied, fetching its cache lines one by one takes no extra time.
constexpr uint64_t kMostPrefetchBytes = 16 * 1024;

class ShmSender : public SendChannel {
 public:
  ShmSender(const UniqueFd& ring, std::shared_ptr<Doorbell> peer, std::shared_ptr<ShmEnd> end,
            const SymmetricHeap* heap, std::function<void(uint32_t)> share)
      : ring_(std::make_shared<const ShmRing>(ring)),
        peer_(std::move(peer)),
        end_(std::move(end)),
        heap_(heap),
        share_(std::move(share)) {}
  ~ShmSender() override { close(); }
  ShmSender(const ShmSender&) = delete;
  ShmSender& operator=(const ShmSender&) = delete;

  Io try_send(Outgoing& frame) override {
    if (frame.taken) return await_receiver(frame);
    if (ring_->closed()) return Io::kClosed;
    if (!joined_) join();
    if (!credits_.has_room()) return Io::kBlocked;
    if (frame.progress == 0) {
      request_ = replies_.take(id_of(frame.header));
      if (!request_ && send_without_buffers(frame)) return Io::kMoved;
    }
    if (request_) return write_in_place(frame);
    do {
      publish_piece(frame);
    } while (!frame.done && credits_.has_room());
    return Io::kMoved;
  }

  void hang_up() noexcept override { close(); }

 private:
  void close() noexcept {
    ring_->words().sender_closed.store(1, std::memory_order_release);
    peer_->ring();
  }

  // On the first send, because the constructor runs on the thread that makes connections.
  void join() {
    credits_.send_by(ring_);
    replies_.send_by(ring_);
    joined_ = true;
  }

  SlotLine& next_line() const { return ring_->line(credits_.published()); }

  void publish(SlotKind kind) {
    const uint64_t slot = credits_.published();
    next_line().flag.store(flag_of(slot, kind), std::memory_order_release);
    credits_.count_published();
    peer_->ring();
  }

  // Publishes a frame that takes one slot. `span` says where its payload is.
  template <typename Span>
  void publish_whole(Outgoing& frame, SlotKind kind, const Span& span) {
    std::memcpy(next_line().inline_bytes.data(), &span, sizeof span);
    publish_whole(frame, kind);
  }

  // The frame has left, unless the receiver reads its payload in the sender's memory.
  void publish_whole(Outgoing& frame, SlotKind kind) {
    next_line().header = frame.header;
    publish(kind);
    frame.taken = kind == SlotKind::kReference || kind == SlotKind::kSingleCopy;
    frame.done = !frame.taken;
    frame.progress = credits_.published();
  }

  void publish_piece(Outgoing& frame) {
    SlotLine& line = next_line();
    const uint64_t size_bytes = frame.header.size_bytes;
    if (frame.progress == 0) line.header = frame.header;
    const uint64_t piece = std::min(size_bytes - frame.progress, ring_->piece_bytes(size_bytes));
    const bool is_inline = size_bytes <= kInlineBytes;
    std::byte* target = line.inline_bytes.data();
    if (!is_inline) {
      const BufferCredits::Buffer buffer = credits_.take();
      std::memcpy(target, &buffer.name, sizeof buffer.name);
      target = buffer.memory;
    }
    if (piece > 0) std::memcpy(target, frame.payload + frame.progress, piece);
    frame.progress += piece;
    frame.done = frame.progress == size_bytes;
    publish(SlotKind::kBytes);
    if (!is_inline && piece <= kMostPrefetchBytes) prefetch_next(piece);
  }

  // The next payload probably has the same size.
  void prefetch_next(uint64_t size_bytes) {
    if (const BufferCredits::Buffer* next = credits_.next()) {
      prefetch_to_write(next->memory, size_bytes);
    }
  }

  bool send_without_buffers(Outgoing& frame) {
    return send_reference(frame) || send_by_reply_slot(frame) || send_single_copy(frame);
  }

  bool send_reference(Outgoing& frame) {
    if (heap_ == nullptr || frame.header.size_bytes < kLeastReferenceBytes) return false;
    const auto found = heap_->find(frame.payload, frame.header.size_bytes);
    if (!found) return false;
    if (std::ranges::find(shared_, found->segment) == shared_.end()) {
      share_(found->segment);
      shared_.push_back(found->segment);
    }
    const ReferenceSpan span{
        .segment = found->segment, .reply = frame.reply, .offset_bytes = found->offset_bytes};
    publish_whole(frame, SlotKind::kReference, span);
    return true;
  }

  bool send_by_reply_slot(Outgoing& frame) {
    const uint64_t size_bytes = frame.header.size_bytes;
    if (frame.reply == 0) return false;
    if (size_bytes < kLeastReplySlotBytes || size_bytes > ring_->reply_slot_bytes()) return false;
    const auto slot = replies_.reserve(reply_to(frame.header, frame.reply));
    if (!slot) return false;
    std::memcpy(ring_->reply_slot(*slot), frame.payload, size_bytes);
    const ReplySlotSpan span{.reply_slot = *slot, .reply = frame.reply};
    publish_whole(frame, SlotKind::kReplySlot, span);
    return true;
  }

  bool send_single_copy(Outgoing& frame) {
    if (!frame.single_copy || frame.header.size_bytes <= kInlineBytes) return false;
    if (ring_->words().single_copy.load(std::memory_order_relaxed) == 0) return false;
    if (!is_readable_by_others(frame.payload, frame.header.size_bytes)) return false;
    publish_whole(frame, SlotKind::kSingleCopy, SingleCopySpan{frame.payload});
    return true;
  }

  // Writes the payload to where the peer has requested it, and then sends a frame without payload.
  Io write_in_place(Outgoing& frame) {
    const uint64_t size_bytes = frame.header.size_bytes;
    if (!request_->written) {
      const uint64_t piece = std::min(size_bytes - frame.progress, kUnbufferedCallBytes);
      std::memcpy(request_->memory + frame.progress, frame.payload + frame.progress, piece);
      frame.progress += piece;
      if (frame.progress < size_bytes) return Io::kMoved;
    }
    publish_whole(frame, SlotKind::kWrittenInPlace);
    return Io::kMoved;
  }

  // The `progress` of a frame that the receiver reads in this process's memory is the number of
  // slots consumed once it was read. The receiver may have read it before it closed.
  Io await_receiver(Outgoing& frame) {
    const bool closed = ring_->closed();
    credits_.refresh();
    if (credits_.consumed() < frame.progress) return closed ? Io::kClosed : Io::kBlocked;
    frame.done = true;
    return Io::kMoved;
  }

  const std::shared_ptr<const ShmRing> ring_;
  const std::shared_ptr<Doorbell> peer_;
  const std::shared_ptr<ShmEnd> end_;
  BufferCredits& credits_ = end_->credits;
  ReplySlots& replies_ = end_->replies;
  const SymmetricHeap* const heap_;
  const std::function<void(uint32_t)> share_;
  std::optional<ReplyRequest> request_;  // that the frame being sent fulfils
  std::vector<uint32_t> shared_;         // segments that the peer was given
  bool joined_ = false;                  // end_ knows the ring
};

}  // namespace

std::shared_ptr<ShmEnd> make_shm_end() { return std::make_shared<ShmEnd>(); }

std::unique_ptr<SendChannel> make_shm_sender(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                             std::shared_ptr<ShmEnd> end, const SymmetricHeap* heap,
                                             std::function<void(uint32_t segment)> share) {
  return std::make_unique<ShmSender>(ring, std::move(peer), std::move(end), heap, std::move(share));
}

}  // namespace fastgpu
