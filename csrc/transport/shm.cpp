#include "transport/shm.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/prefetch.h"
#include "transport/fence.h"
#include "transport/shm_ring.h"

namespace fastgpu {
namespace {

// Below this a copy costs less than to wait until the receiver is done.
constexpr uint64_t kReferenceBytes = 4096;
// Below this an answer in place saves no more than it takes to keep note of it.
constexpr uint64_t kLeastStagedBytes = 1024;
// A larger piece keeps the core busy for longer than it takes to get its lines one by one.
constexpr uint64_t kPrefetchedBytes = 16 * 1024;
// What is read there to be reduced goes by way of this much, which stays in the caches.
constexpr uint64_t kScratchBytes = 64 * 1024;
// What one call takes from symmetric memory, so that other channels get their turn.
constexpr uint64_t kReferencePieceBytes = 256 * 1024;

class ShmSender : public SendChannel {
 public:
  ShmSender(const UniqueFd& ring, std::shared_ptr<Doorbell> peer, const SymmetricHeap* heap,
            std::function<void(uint32_t)> share)
      : ring_(ring), peer_(std::move(peer)), heap_(heap), share_(std::move(share)) {}
  ~ShmSender() override { close(); }
  ShmSender(const ShmSender&) = delete;
  ShmSender& operator=(const ShmSender&) = delete;

  Io try_send(Outgoing& frame) override {
    if (frame.taken) return await_receiver(frame);
    if (ring_.closed()) return Io::kClosed;
    if (!has_room()) return Io::kBlocked;
    if (frame.place != nullptr) return place(frame);
    if (frame.progress == 0 && (refer(frame) || stage(frame) || leave(frame))) return Io::kMoved;
    do {
      publish_piece(frame);
    } while (!frame.done && has_room());
    return Io::kMoved;
  }

  void reclaim(const std::byte* staged) noexcept override {
    const auto n = static_cast<uint64_t>(staged - ring_.stage(0)) / ring_.stage_bytes();
    free_stages_ |= uint32_t{1} << n;
  }

  void hang_up() noexcept override { close(); }

 private:
  void close() noexcept {
    ring_.words().sender_closed.store(1, std::memory_order_release);
    peer_->ring();
  }

  bool has_room() {
    if (published_ - consumed_ < ring_.slots()) return true;
    load_consumed();
    return published_ - consumed_ < ring_.slots();
  }

  void load_consumed() { consumed_ = ring_.words().consumed.load(std::memory_order_acquire); }

  void publish(SlotKind kind) {
    ring_.control(published_).flag.store(flag_of(published_, kind), std::memory_order_release);
    ++published_;
    peer_->ring();
  }

  void publish_piece(Outgoing& frame) {
    SlotControl& control = ring_.control(published_);
    const uint64_t size_bytes = frame.header.size_bytes;
    if (frame.progress == 0) control.header = frame.header;
    const uint64_t piece = std::min(size_bytes - frame.progress, ring_.piece_bytes(size_bytes));
    const bool is_inline = size_bytes <= kInlineBytes;
    std::byte* target = is_inline ? control.inline_bytes.data() : ring_.payload(payloads_++);
    if (piece > 0) std::memcpy(target, frame.payload + frame.progress, piece);
    frame.progress += piece;
    frame.done = frame.progress == size_bytes;
    publish(SlotKind::kBytes);
    if (!is_inline && piece <= kPrefetchedBytes) prepare_next(piece);
  }

  // The next payload is likely to be as large. The receiver is done with its lines, since the
  // ring is not full; the control line, which it looks at all the time, is better left to it.
  void prepare_next(uint64_t size_bytes) {
    if (published_ - consumed_ < ring_.slots()) {
      prefetch_to_write(ring_.payload(payloads_), size_bytes);
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
    SlotControl& control = ring_.control(published_);
    control.header = frame.header;
    std::memcpy(control.inline_bytes.data(), &*span, sizeof *span);
    publish(SlotKind::kReference);
    frame.taken = true;
    frame.progress = published_;
    return true;
  }

  // Copies a payload that is to be answered to where the receiver can write the answer. Without a
  // free stage it goes as any other: peers that both waited for one would wait for ever.
  bool stage(Outgoing& frame) {
    const uint64_t size_bytes = frame.header.size_bytes;
    if (frame.answer == 0 || free_stages_ == 0) return false;
    if (size_bytes < kLeastStagedBytes || size_bytes > ring_.stage_bytes()) return false;
    const auto n = static_cast<uint32_t>(std::countr_zero(free_stages_));
    free_stages_ &= free_stages_ - 1;
    frame.staged = ring_.stage(n);
    std::memcpy(frame.staged, frame.payload, size_bytes);
    frame.progress = size_bytes;
    frame.done = true;
    SlotControl& control = ring_.control(published_);
    control.header = frame.header;
    const StageSpan span{.stage = n, .answer = frame.answer};
    std::memcpy(control.inline_bytes.data(), &span, sizeof span);
    publish(SlotKind::kStaged);
    return true;
  }

  // Leaves a large payload where it lies, if the receiver can read it there.
  bool leave(Outgoing& frame) {
    if (!frame.stays || frame.header.size_bytes <= kInlineBytes) return false;
    if (ring_.words().reads_sender.load(std::memory_order_relaxed) == 0) return false;
    SlotControl& control = ring_.control(published_);
    control.header = frame.header;
    const PrivateSpan span{frame.payload};
    std::memcpy(control.inline_bytes.data(), &span, sizeof span);
    publish(SlotKind::kPrivate);
    frame.taken = true;
    frame.progress = published_;
    return true;
  }

  // Writes the answer where the receiver has it, then says so.
  Io place(Outgoing& frame) {
    const uint64_t size_bytes = frame.header.size_bytes;
    const uint64_t piece = std::min(size_bytes - frame.progress, kReferencePieceBytes);
    std::memcpy(frame.place + frame.progress, frame.payload + frame.progress, piece);
    frame.progress += piece;
    if (frame.progress < size_bytes) return Io::kMoved;
    ring_.control(published_).header = frame.header;
    frame.done = true;
    publish(SlotKind::kPlaced);
    return Io::kMoved;
  }

  // `progress` of a frame that is read where it lies: the slots consumed once it has been. A
  // receiver that closed may have read it before.
  Io await_receiver(Outgoing& frame) {
    const bool closed = ring_.closed();
    load_consumed();
    if (consumed_ < frame.progress) return closed ? Io::kClosed : Io::kBlocked;
    frame.done = true;
    return Io::kMoved;
  }

  const ShmRing ring_;
  const std::shared_ptr<Doorbell> peer_;
  const SymmetricHeap* const heap_;
  const std::function<void(uint32_t)> share_;
  uint32_t free_stages_ = static_cast<uint32_t>((uint64_t{1} << ring_.stages()) - 1);
  std::vector<uint32_t> shared_;  // segments that the peer was given
  uint64_t published_ = 0;        // slots
  uint64_t payloads_ = 0;         // of them, those with a payload
  uint64_t consumed_ = 0;         // slots, as last seen
};

class ShmReceiver : public RecvChannel {
 public:
  ShmReceiver(const UniqueFd& ring, std::shared_ptr<Doorbell> peer,
              std::shared_ptr<PeerSegments> segments, const SymmetricHeap* heap)
      : ring_(ring),
        peer_(std::move(peer)),
        segments_(std::move(segments)),
        heap_(heap),
        sender_(ring_.words().sender),
        publish_every_(std::max<uint64_t>(ring_.slots() / 4, 1)) {
    if (sender_.readable()) ring_.words().reads_sender.store(1, std::memory_order_relaxed);
  }
  ~ShmReceiver() override { close(); }
  ShmReceiver(const ShmReceiver&) = delete;
  ShmReceiver& operator=(const ShmReceiver&) = delete;

  Io peek(FrameHeader& header) override {
    if (!in_frame_) {
      if (const Io io = look(); io != Io::kMoved) return io;
      begin_frame();
    }
    header = header_;
    return Io::kMoved;
  }

  Io try_recv(Incoming& incoming) override {
    if (!in_frame_) return nothing();
    if (kind_ == SlotKind::kReference) return take_reference(incoming);
    if (kind_ == SlotKind::kStaged) return take_staged(incoming);
    if (kind_ == SlotKind::kPrivate) return take_private(incoming);
    if (kind_ == SlotKind::kPlaced) return take_placed(incoming);
    const uint64_t piece_bytes = ring_.piece_bytes(header_.size_bytes);
    uint64_t pieces = 0;
    // At most a ring's worth, so that other channels get their turn.
    for (; in_frame_ && pieces < ring_.slots(); ++pieces) {
      if (const Io io = look(); io != Io::kMoved) return pieces > 0 ? Io::kMoved : io;
      const uint64_t piece = std::min(incoming.size_bytes - incoming.received_bytes, piece_bytes);
      incoming.take(header_.size_bytes <= kInlineBytes ? control().inline_bytes.data()
                                                       : ring_.payload(payloads_++),
                    piece);
      in_frame_ = !incoming.done;
      ++consumed_;
      if (consumed_ - published_ >= publish_every_) publish(false);
    }
    return Io::kMoved;
  }

  void hang_up() noexcept override { close(); }

 private:
  void close() noexcept {
    ring_.words().receiver_closed.store(1, std::memory_order_release);
    peer_->ring();
  }

  Io nothing() const { return ring_.closed() ? Io::kClosed : Io::kBlocked; }
  // A sender may publish its last slot and close between two looks: closed is what was closed
  // before nothing was there.
  Io look() const {
    if (arrived()) return Io::kMoved;
    if (!ring_.closed()) return Io::kBlocked;
    return arrived() ? Io::kMoved : Io::kClosed;
  }
  const SlotControl& control() const { return ring_.control(consumed_); }
  bool arrived() const {
    return control().flag.load(std::memory_order_acquire) >= flag_of(consumed_);
  }

  void begin_frame() {
    in_frame_ = true;
    header_ = control().header;
    kind_ = kind_of(control().flag.load(std::memory_order_relaxed));
    if (kind_ == SlotKind::kReference)
      std::memcpy(&span_, control().inline_bytes.data(), sizeof span_);
  }

  Io take_reference(Incoming& incoming) {
    std::byte* source = segments_->at(span_, header_.size_bytes);
    if (source == nullptr) return nothing();
    const uint64_t piece =
        std::min(incoming.size_bytes - incoming.received_bytes, kReferencePieceBytes);
    if (span_.answer != 0 && span_.answer == incoming.answers) {
      incoming.take_and_answer(source + incoming.received_bytes, piece);
    } else {
      incoming.take(source + incoming.received_bytes, piece);
    }
    if (const Io io = end_piece(incoming); io != Io::kMoved || !incoming.done) return io;
    incoming.answer = span_.answer;
    incoming.place = span_.answer != 0 ? source : nullptr;
    return Io::kMoved;
  }

  // Of memory that the sender keeps as it is until it hears that all was read, or closes.
  Io end_piece(Incoming& incoming) {
    fence(std::memory_order_acquire);
    if (ring_.closed()) {
      incoming.done = false;
      return Io::kClosed;
    }
    if (incoming.done) {
      in_frame_ = false;
      ++consumed_;
      publish(true);
    }
    return Io::kMoved;
  }

  Io take_private(Incoming& incoming) {
    PrivateSpan span;
    std::memcpy(&span, control().inline_bytes.data(), sizeof span);
    const std::byte* const source = span.memory + incoming.received_bytes;
    const bool reduces = incoming.reduce != nullptr;
    const uint64_t piece = std::min(incoming.size_bytes - incoming.received_bytes,
                                    reduces ? kScratchBytes : kReferencePieceBytes);
    if (reduces && scratch_.empty()) scratch_.resize(kScratchBytes);
    std::byte* const target = reduces ? scratch_.data() : incoming.target + incoming.received_bytes;
    if (!sender_.read(target, source, piece)) return nothing();  // it has ended, or will close
    if (reduces) {
      incoming.take(target, piece);
    } else {
      incoming.received_bytes += piece;
      incoming.done = incoming.received_bytes == incoming.size_bytes;
    }
    return end_piece(incoming);
  }

  Io take_staged(Incoming& incoming) {
    StageSpan span;
    std::memcpy(&span, control().inline_bytes.data(), sizeof span);
    if (span.stage >= ring_.stages() || incoming.size_bytes > ring_.stage_bytes()) {
      raise(ErrorKind::kPeerLost, "a peer named a stage outside of its ring");
    }
    std::byte* const source = ring_.stage(span.stage);
    if (span.answer == incoming.answers) {
      incoming.take_and_answer(source, incoming.size_bytes);
    } else {
      incoming.take(source, incoming.size_bytes);
    }
    incoming.answer = span.answer;
    incoming.place = source;
    end_slot();
    return Io::kMoved;
  }

  // What was written to memory that another group's failure took back meanwhile may be lost.
  Io take_placed(Incoming& incoming) {
    if (incoming.staged != nullptr) {
      incoming.take(incoming.staged, incoming.size_bytes);
      end_slot();
      return Io::kMoved;
    }
    if (heap_ != nullptr && !heap_->find(incoming.target, incoming.size_bytes)) {
      raise(ErrorKind::kAborted,
            "an operation of another group failed on the same symmetric memory, and took it back "
            "from the peers while a result was written there; give groups that work at once "
            "tensors of their own from fastgpu_comm.empty()");
    }
    incoming.received_bytes = incoming.size_bytes;
    incoming.done = true;
    end_slot();
    return Io::kMoved;
  }

  // Of a frame of one slot that has been taken.
  void end_slot() {
    in_frame_ = false;
    ++consumed_;
    if (consumed_ - published_ >= publish_every_) publish(false);
  }

  // Gives the slots taken since the last time back to the sender.
  void publish(bool awaited) {
    const uint64_t last = published_ + ring_.slots() - 1;
    published_ = consumed_;
    ring_.words().consumed.store(published_, std::memory_order_release);
    fence(std::memory_order_seq_cst);
    const uint64_t flag = ring_.control(last).flag.load(std::memory_order_relaxed);
    if (awaited || flag >= flag_of(last)) peer_->ring();
  }

  const ShmRing ring_;
  const std::shared_ptr<Doorbell> peer_;
  const std::shared_ptr<PeerSegments> segments_;
  const SymmetricHeap* const heap_;
  const ProcessMemory sender_;
  std::vector<std::byte> scratch_;
  const uint64_t publish_every_;  // slots
  uint64_t consumed_ = 0;         // slots
  uint64_t payloads_ = 0;         // of them, those with a payload
  uint64_t published_ = 0;        // slots that the sender was told of
  bool in_frame_ = false;         // peek showed header_, and not all of its payload was taken
  SlotKind kind_ = SlotKind::kBytes;
  FrameHeader header_;
  SegmentSpan span_;
};

}  // namespace

std::unique_ptr<SendChannel> make_shm_sender(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                             const SymmetricHeap* heap,
                                             std::function<void(uint32_t segment)> share) {
  return std::make_unique<ShmSender>(ring, std::move(peer), heap, std::move(share));
}

std::unique_ptr<RecvChannel> make_shm_receiver(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                               std::shared_ptr<PeerSegments> segments,
                                               const SymmetricHeap* heap) {
  return std::make_unique<ShmReceiver>(ring, std::move(peer), std::move(segments), heap);
}

}  // namespace fastgpu
