#include "transport/shm.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "transport/fence.h"
#include "transport/shm_ring.h"

namespace fastgpu {
namespace {

// Below this a copy costs less than to wait until the receiver is done.
constexpr uint64_t kReferenceBytes = 4096;
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
    if (frame.progress == 0 && refer(frame)) return Io::kMoved;
    do {
      publish_piece(frame);
    } while (!frame.done && has_room());
    return Io::kMoved;
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
    std::byte* target =
        size_bytes <= kInlineBytes ? control.inline_bytes.data() : ring_.payload(published_);
    if (piece > 0) std::memcpy(target, frame.payload + frame.progress, piece);
    frame.progress += piece;
    frame.done = frame.progress == size_bytes;
    publish(SlotKind::kBytes);
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
  std::vector<uint32_t> shared_;  // segments that the peer was given
  uint64_t published_ = 0;        // slots
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
        publish_every_(std::max<uint64_t>(ring_.slots() / 4, 1)) {}
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
    if (kind_ == SlotKind::kPlaced) return take_placed(incoming);
    const uint64_t piece_bytes = ring_.piece_bytes(header_.size_bytes);
    uint64_t pieces = 0;
    // At most a ring's worth, so that other channels get their turn.
    for (; in_frame_ && pieces < ring_.slots(); ++pieces) {
      if (const Io io = look(); io != Io::kMoved) return pieces > 0 ? Io::kMoved : io;
      const uint64_t piece = std::min(incoming.size_bytes - incoming.received_bytes, piece_bytes);
      incoming.take(header_.size_bytes <= kInlineBytes ? control().inline_bytes.data()
                                                       : ring_.payload(consumed_),
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
    fence(std::memory_order_acquire);
    if (ring_.closed()) {
      incoming.done = false;
      return Io::kClosed;
    }
    if (incoming.done) {
      incoming.answer = span_.answer;
      incoming.place = span_.answer != 0 ? source : nullptr;
      in_frame_ = false;
      ++consumed_;
      publish(true);
    }
    return Io::kMoved;
  }

  // What was written to memory that another group's failure took back meanwhile may be lost.
  Io take_placed(Incoming& incoming) {
    if (heap_ != nullptr && !heap_->find(incoming.target, incoming.size_bytes)) {
      raise(ErrorKind::kAborted,
            "an operation of another group failed on the same symmetric memory, and took it back "
            "from the peers while a result was written there; give groups that work at once "
            "tensors of their own from fastgpu_comm.empty()");
    }
    incoming.received_bytes = incoming.size_bytes;
    incoming.done = true;
    in_frame_ = false;
    ++consumed_;
    if (consumed_ - published_ >= publish_every_) publish(false);
    return Io::kMoved;
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
  const uint64_t publish_every_;  // slots
  uint64_t consumed_ = 0;         // slots
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
