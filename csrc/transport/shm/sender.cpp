// The sending end of a shared-memory ring.
#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/cache_lines.h"
#include "transport/shm/buffer_credits.h"
#include "transport/shm/ring.h"
#include "transport/shm/shm.h"

namespace fastgpu {
namespace {

// Below this a copy costs less than to wait until the receiver is done.
constexpr uint64_t kReferenceBytes = 4096;
// Below this an answer in place saves no more than it takes to keep note of it.
constexpr uint64_t kLeastStagedBytes = 1024;
// A larger piece keeps the core busy for longer than it takes to get its lines one by one.
constexpr uint64_t kPrefetchedBytes = 16 * 1024;

class ShmSender : public SendChannel {
 public:
  ShmSender(const UniqueFd& ring, std::shared_ptr<Doorbell> peer,
            std::shared_ptr<BufferCredits> credits, const SymmetricHeap* heap,
            std::function<void(uint32_t)> share)
      : ring_(std::make_shared<const ShmRing>(ring)),
        peer_(std::move(peer)),
        credits_(std::move(credits)),
        heap_(heap),
        share_(std::move(share)) {}
  ~ShmSender() override { close(); }
  ShmSender(const ShmSender&) = delete;
  ShmSender& operator=(const ShmSender&) = delete;

  Io try_send(Outgoing& frame) override {
    if (frame.taken) return await_receiver(frame);
    if (ring_->closed()) return Io::kClosed;
    if (!joined_) join();
    if (!credits_->has_room()) return Io::kBlocked;
    if (frame.place != nullptr) return place(frame);
    if (frame.progress == 0 && (refer(frame) || stage(frame) || leave(frame))) return Io::kMoved;
    do {
      publish_piece(frame);
    } while (!frame.done && credits_->has_room());
    return Io::kMoved;
  }

  void reclaim(const std::byte* staged) noexcept override {
    const auto n = static_cast<uint64_t>(staged - ring_->stage(0)) / ring_->stage_bytes();
    free_stages_ |= uint32_t{1} << n;
  }

  void hang_up() noexcept override { close(); }

 private:
  void close() noexcept {
    ring_->words().sender_closed.store(1, std::memory_order_release);
    peer_->ring();
  }

  // Not when it is made, by the thread that makes connections.
  void join() {
    credits_->send_by(ring_);
    joined_ = true;
  }

  SlotControl& next_control() const { return ring_->control(credits_->published()); }

  // Of a frame that takes one slot, which says where the payload lies.
  template <typename Span>
  void publish_span(const FrameHeader& header, SlotKind kind, const Span& span) {
    SlotControl& control = next_control();
    control.header = header;
    std::memcpy(control.inline_bytes.data(), &span, sizeof span);
    publish(kind);
  }

  void publish(SlotKind kind) {
    const uint64_t slot = credits_->published();
    next_control().flag.store(flag_of(slot, kind), std::memory_order_release);
    credits_->count_published();
    peer_->ring();
  }

  void publish_piece(Outgoing& frame) {
    SlotControl& control = next_control();
    const uint64_t size_bytes = frame.header.size_bytes;
    if (frame.progress == 0) control.header = frame.header;
    const uint64_t piece = std::min(size_bytes - frame.progress, ring_->piece_bytes(size_bytes));
    const bool is_inline = size_bytes <= kInlineBytes;
    std::byte* target = control.inline_bytes.data();
    if (!is_inline) {
      const BufferCredits::Buffer buffer = credits_->take();
      std::memcpy(target, &buffer.name, sizeof buffer.name);
      target = buffer.memory;
    }
    if (piece > 0) std::memcpy(target, frame.payload + frame.progress, piece);
    frame.progress += piece;
    frame.done = frame.progress == size_bytes;
    publish(SlotKind::kBytes);
    if (!is_inline && piece <= kPrefetchedBytes) prepare_next(piece);
  }

  // The next payload is likely to be as large.
  void prepare_next(uint64_t size_bytes) {
    if (const BufferCredits::Buffer* next = credits_->next()) {
      prefetch_to_write(next->memory, size_bytes);
    }
  }

  // Passes on where the payload lies, if it lies in symmetric memory.
  bool refer(Outgoing& frame) {
    if (heap_ == nullptr || frame.header.size_bytes < kReferenceBytes) return false;
    auto span = heap_->find(frame.payload, frame.header.size_bytes);
    if (!span) return false;
    span->answer = frame.answer;
    if (std::ranges::find(shared_, span->segment) == shared_.end()) {
      share_(span->segment);
      shared_.push_back(span->segment);
    }
    publish_span(frame.header, SlotKind::kReference, *span);
    frame.taken = true;
    frame.progress = credits_->published();
    return true;
  }

  // Copies a payload that is to be answered to where the receiver can write the answer. Without a
  // free stage it goes as any other: peers that both waited for one would wait for ever.
  bool stage(Outgoing& frame) {
    const uint64_t size_bytes = frame.header.size_bytes;
    if (frame.answer == 0 || free_stages_ == 0) return false;
    if (size_bytes < kLeastStagedBytes || size_bytes > ring_->stage_bytes()) return false;
    const auto n = static_cast<uint32_t>(std::countr_zero(free_stages_));
    free_stages_ &= free_stages_ - 1;
    frame.staged = ring_->stage(n);
    std::memcpy(frame.staged, frame.payload, size_bytes);
    frame.progress = size_bytes;
    frame.done = true;
    publish_span(frame.header, SlotKind::kStaged, StageSpan{.stage = n, .answer = frame.answer});
    return true;
  }

  // Leaves a large payload where it lies, if the receiver can read it there.
  bool leave(Outgoing& frame) {
    if (!frame.single_copy || frame.header.size_bytes <= kInlineBytes) return false;
    if (ring_->words().reads_sender.load(std::memory_order_relaxed) == 0) return false;
    if (!is_readable_by_others(frame.payload, frame.header.size_bytes)) return false;
    publish_span(frame.header, SlotKind::kSingleCopy, SingleCopySpan{frame.payload});
    frame.taken = true;
    frame.progress = credits_->published();
    return true;
  }

  // Writes the answer where the receiver has it, then says so.
  Io place(Outgoing& frame) {
    const uint64_t size_bytes = frame.header.size_bytes;
    const uint64_t piece = std::min(size_bytes - frame.progress, kReferencePieceBytes);
    std::memcpy(frame.place + frame.progress, frame.payload + frame.progress, piece);
    frame.progress += piece;
    if (frame.progress < size_bytes) return Io::kMoved;
    next_control().header = frame.header;
    frame.done = true;
    publish(SlotKind::kPlaced);
    return Io::kMoved;
  }

  // `progress` of a frame that is read where it lies: the slots consumed once it has been. A
  // receiver that closed may have read it before.
  Io await_receiver(Outgoing& frame) {
    const bool closed = ring_->closed();
    credits_->refresh();
    if (credits_->consumed() < frame.progress) return closed ? Io::kClosed : Io::kBlocked;
    frame.done = true;
    return Io::kMoved;
  }

  const std::shared_ptr<const ShmRing> ring_;
  const std::shared_ptr<Doorbell> peer_;
  const std::shared_ptr<BufferCredits> credits_;
  const SymmetricHeap* const heap_;
  const std::function<void(uint32_t)> share_;
  uint32_t free_stages_ = static_cast<uint32_t>((uint64_t{1} << ring_->stages()) - 1);
  std::vector<uint32_t> shared_;  // segments that the peer was given
  bool joined_ = false;           // the credits know the ring
};

}  // namespace

std::unique_ptr<SendChannel> make_shm_sender(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                             std::shared_ptr<BufferCredits> credits,
                                             const SymmetricHeap* heap,
                                             std::function<void(uint32_t segment)> share) {
  return std::make_unique<ShmSender>(ring, std::move(peer), std::move(credits), heap,
                                     std::move(share));
}

}  // namespace fastgpu
