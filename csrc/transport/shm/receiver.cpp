// The receiving end of a shared-memory ring.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/cache_lines.h"
#include "base/error.h"
#include "transport/shm/end.h"
#include "transport/shm/ring.h"
#include "transport/shm/shm.h"
#include "transport/wait/fence.h"

namespace fastgpu {
namespace {

// Single copies that are to be reduced are made into this much memory, which stays in the cache.
constexpr uint64_t kScratchBytes = 64 * 1024;

class ShmReceiver : public RecvChannel {
 public:
  ShmReceiver(const UniqueFd& ring, std::shared_ptr<Doorbell> peer, std::shared_ptr<ShmEnd> end,
              std::shared_ptr<PeerSegments> segments, const SymmetricHeap* heap, pid_t sender)
      : ring_(std::make_shared<const ShmRing>(ring)),
        peer_(std::move(peer)),
        end_(std::move(end)),
        segments_(std::move(segments)),
        heap_(heap),
        sender_(sender, ring_->words().mark),
        report_every_(std::max(ring_->slots() / 4, 1U)) {
    if (sender_.readable()) ring_->words().single_copy.store(1, std::memory_order_relaxed);
  }
  ~ShmReceiver() override { close(); }
  ShmReceiver(const ShmReceiver&) = delete;
  ShmReceiver& operator=(const ShmReceiver&) = delete;

  Io peek(FrameHeader& header) override {
    if (!in_frame_) {
      if (const Io io = poll_slot(); io != Io::kMoved) return io;
      begin_frame();
    }
    header = header_;
    return Io::kMoved;
  }

  Io try_recv(Incoming& incoming) override {
    if (!in_frame_) return blocked_or_closed();
    if (kind_ == SlotKind::kReference) return take_reference(incoming);
    if (kind_ == SlotKind::kReplySlot) return take_reply_slot(incoming);
    if (kind_ == SlotKind::kSingleCopy) return take_single_copy(incoming);
    if (kind_ == SlotKind::kWrittenInPlace) return take_written_in_place(incoming);
    return take_pieces(incoming);
  }

  std::shared_ptr<std::byte> map(const SegmentSpan& span, uint64_t size_bytes) override {
    return {segments_, segments_->at(span, size_bytes)};
  }

  void hang_up() noexcept override { close(); }

 private:
  void close() noexcept {
    ring_->words().receiver_closed.store(1, std::memory_order_release);
    peer_->ring();
  }

  Io blocked_or_closed() const { return ring_->closed() ? Io::kClosed : Io::kBlocked; }
  // Checks a second time after it has seen the close: the sender may have published its last slot
  // between the first check and the close.
  Io poll_slot() const {
    if (arrived()) return Io::kMoved;
    if (!ring_->closed()) return Io::kBlocked;
    return arrived() ? Io::kMoved : Io::kClosed;
  }
  const SlotLine& line() const { return ring_->line(consumed_); }
  bool arrived() const { return line().flag.load(std::memory_order_acquire) >= flag_of(consumed_); }

  template <typename Span>
  Span span() const {
    Span span;
    std::memcpy(&span, line().inline_bytes.data(), sizeof span);
    return span;
  }

  void begin_frame() {
    in_frame_ = true;
    header_ = line().header;
    kind_ = kind_of(line().flag.load(std::memory_order_relaxed));
  }

  void end_frame() {
    in_frame_ = false;
    replies_.release(id_of(header_));
  }

  void end_slot(const Incoming& incoming) {
    if (incoming.done) end_frame();
    ++consumed_;
    if (consumed_ - reported_ >= report_every_) report(false);
  }

  // Tells the sender which slots were consumed.
  void report(bool awaited) {
    const uint64_t last = reported_ + ring_->slots() - 1;  // is published if the ring was full
    reported_ = consumed_;
    ring_->words().returned.store(returned_, std::memory_order_release);
    ring_->words().consumed.store(reported_, std::memory_order_release);
    fence(std::memory_order_seq_cst);
    const uint64_t flag = ring_->line(last).flag.load(std::memory_order_relaxed);
    if (awaited || flag >= flag_of(last)) peer_->ring();
  }

  Io take_pieces(Incoming& incoming) {
    const uint64_t piece_bytes = ring_->piece_bytes(header_.size_bytes);
    // At most one ring full, so that other channels are polled in between.
    for (uint64_t pieces = 0; in_frame_ && pieces < ring_->slots(); ++pieces) {
      if (const Io io = poll_slot(); io != Io::kMoved) return pieces > 0 ? Io::kMoved : io;
      take_piece(incoming, std::min(incoming.left_bytes(), piece_bytes));
      end_slot(incoming);
    }
    return Io::kMoved;
  }

  void take_piece(Incoming& incoming, uint64_t size_bytes) {
    if (header_.size_bytes <= kInlineBytes) {
      incoming.take(line().inline_bytes.data(), size_bytes);
      return;
    }
    if (!joined_) join();
    const auto name = span<BufferName>();
    std::byte* const payload = credits_.find(name);
    if (payload == nullptr) {
      raise(ErrorKind::kPeerLost, "a frame names buffer " + std::to_string(name.buffer) + " of " +
                                      (name.of_receiver != 0 ? "the receiver's" : "its own") +
                                      " ring, which does not exist; the peer's process is broken");
    }
    incoming.take(payload, size_bytes);
    if (!credits_.keep(name, payload)) return_buffer(name, payload, size_bytes);
  }

  // On the first buffer, because the constructor runs on the thread that makes connections.
  void join() {
    credits_.receive_by(ring_);
    joined_ = true;
  }

  void return_buffer(BufferName name, std::byte* payload, uint64_t size_bytes) {
    if (rewrites_lines_) rewrite_lines(payload, size_bytes);
    ring_->words().returns[returned_++ % kReturns] = pack(name);
  }

  Io take_reference(Incoming& incoming) {
    const auto span = this->span<ReferenceSpan>();
    std::byte* const payload = segments_->at(
        {.segment = span.segment, .offset_bytes = span.offset_bytes}, header_.size_bytes);
    if (payload == nullptr) return blocked_or_closed();
    const uint64_t piece = std::min(incoming.left_bytes(), kUnbufferedCallBytes);
    take_from(payload, piece, span.reply, incoming);
    if (const Io io = end_read(incoming); io != Io::kMoved || !incoming.done) return io;
    note_request(payload, span.reply, incoming);
    return Io::kMoved;
  }

  Io take_reply_slot(Incoming& incoming) {
    const auto span = this->span<ReplySlotSpan>();
    if (span.reply_slot >= ring_->reply_slots() ||
        incoming.size_bytes > ring_->reply_slot_bytes() || span.reply == 0) {
      raise(ErrorKind::kPeerLost,
            "a frame of " + std::to_string(incoming.size_bytes) + " bytes names reply slot " +
                std::to_string(span.reply_slot) + " and reply " + std::to_string(span.reply) +
                ", outside of a ring with " + std::to_string(ring_->reply_slots()) +
                " reply slots of " + std::to_string(ring_->reply_slot_bytes()) +
                " bytes; the peer's process is broken");
    }
    std::byte* const payload = ring_->reply_slot(span.reply_slot);
    take_from(payload, incoming.size_bytes, span.reply, incoming);
    note_request(payload, span.reply, incoming);
    end_slot(incoming);
    return Io::kMoved;
  }

  // Whether this frame makes the target equal to the reply that the peer wants, so that one pass
  // can write both.
  static bool completes_reply(const Incoming& incoming, uint32_t reply) {
    return reply != 0 && reply == incoming.replies_with && incoming.sink.reduce_both != nullptr;
  }

  void take_from(std::byte* payload, uint64_t size_bytes, uint32_t reply, Incoming& incoming) {
    std::byte* const source = payload + incoming.received_bytes;
    if (completes_reply(incoming, reply)) {
      incoming.take_both(source, size_bytes);
    } else {
      incoming.take(source, size_bytes);
    }
  }

  void note_request(std::byte* payload, uint32_t reply, const Incoming& incoming) {
    if (reply == 0) return;
    replies_.add({.reply = reply_to(header_, reply),
                  .memory = payload,
                  .written = completes_reply(incoming, reply)});
  }

  Io take_single_copy(Incoming& incoming) {
    const std::byte* const source = span<SingleCopySpan>().address + incoming.received_bytes;
    const bool reduces = incoming.sink.reduces();
    const uint64_t piece =
        std::min(incoming.left_bytes(), reduces ? kScratchBytes : kUnbufferedCallBytes);
    if (reduces && scratch_.empty()) scratch_.resize(kScratchBytes);
    std::byte* const target = reduces ? scratch_.data() : incoming.next();
    if (const MemoryRead read = sender_.read(target, source, piece); read != MemoryRead::kDone) {
      return on_unreadable(read, piece);
    }
    if (reduces) {
      incoming.take(target, piece);
    } else {
      incoming.advance(piece);
    }
    return end_read(incoming);
  }

  // If the sender is gone or has closed, the caller will hear of that. Otherwise waiting would not
  // help.
  Io on_unreadable(MemoryRead read, uint64_t size_bytes) const {
    const int why = errno;
    const Io io = blocked_or_closed();
    if (read == MemoryRead::kGone || io == Io::kClosed) return io;
    raise_system(
        ErrorKind::kAborted,
        "the kernel refuses to copy " + std::to_string(size_bytes) +
            " bytes out of the sender's memory; tensors must be in ordinary memory, and a rank "
            "must not change its user or become undumpable after it has created a group",
        why);
  }

  // After bytes were read in the sender's memory. They count only if neither end has closed: until
  // then the sender leaves them unchanged.
  Io end_read(Incoming& incoming) {
    fence(std::memory_order_acquire);
    if (ring_->closed()) {
      incoming.done = false;
      return Io::kClosed;
    }
    if (incoming.done) {
      end_frame();
      ++consumed_;
      report(true);
    }
    return Io::kMoved;
  }

  // The payload is in the reply slot that was reserved for this frame, else in the target.
  Io take_written_in_place(Incoming& incoming) {
    if (const std::byte* const slot = replies_.find(id_of(header_))) {
      incoming.take(slot, incoming.size_bytes);
    } else if (heap_ == nullptr || heap_->find(incoming.target, incoming.size_bytes)) {
      incoming.advance(incoming.size_bytes);
    } else {
      raise(ErrorKind::kAborted,
            "the result may be lost: an operation of another group failed and revoked the same "
            "symmetric memory; give groups that run at the same time tensors of their own from "
            "fastgpu_comm.empty()");
    }
    end_slot(incoming);
    return Io::kMoved;
  }

  const std::shared_ptr<const ShmRing> ring_;
  const std::shared_ptr<Doorbell> peer_;
  const std::shared_ptr<ShmEnd> end_;
  BufferCredits& credits_ = end_->credits;
  ReplySlots& replies_ = end_->replies;
  const std::shared_ptr<PeerSegments> segments_;
  const SymmetricHeap* const heap_;
  const ProcessMemory sender_;
  std::vector<std::byte> scratch_;
  const uint64_t report_every_;  // slots
  const bool rewrites_lines_ = lines_stay_owned();
  uint64_t consumed_ = 0;  // slots
  uint64_t reported_ = 0;  // slots reported to the sender
  uint64_t returned_ = 0;  // buffers
  bool joined_ = false;    // credits_ knows the ring
  bool in_frame_ = false;  // peek() has shown header_, and its payload is not yet taken
  SlotKind kind_ = SlotKind::kBytes;
  FrameHeader header_;
};

}  // namespace

std::unique_ptr<RecvChannel> make_shm_receiver(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                               std::shared_ptr<ShmEnd> end,
                                               std::shared_ptr<PeerSegments> segments,
                                               const SymmetricHeap* heap, pid_t sender) {
  return std::make_unique<ShmReceiver>(ring, std::move(peer), std::move(end), std::move(segments),
                                       heap, sender);
}

}  // namespace fastgpu
