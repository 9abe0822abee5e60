// The receiving end of a shared-memory ring.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/cache_lines.h"
#include "base/error.h"
#include "transport/shm/buffer_credits.h"
#include "transport/shm/ring.h"
#include "transport/shm/shm.h"
#include "transport/wait/fence.h"

namespace fastgpu {
namespace {

// What is read in private memory to be reduced goes by way of this much, which stays in the caches.
constexpr uint64_t kScratchBytes = 64 * 1024;

class ShmReceiver : public RecvChannel {
 public:
  ShmReceiver(const UniqueFd& ring, std::shared_ptr<Doorbell> peer,
              std::shared_ptr<BufferCredits> credits, std::shared_ptr<PeerSegments> segments,
              const SymmetricHeap* heap, pid_t sender)
      : ring_(std::make_shared<const ShmRing>(ring)),
        peer_(std::move(peer)),
        credits_(std::move(credits)),
        segments_(std::move(segments)),
        heap_(heap),
        sender_(sender, ring_->words().sender),
        publish_every_(std::max(ring_->slots() / 4, 1U)) {
    if (sender_.readable()) ring_->words().reads_sender.store(1, std::memory_order_relaxed);
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
    if (kind_ == SlotKind::kSingleCopy) return take_single_copy(incoming);
    if (kind_ == SlotKind::kPlaced) return take_placed(incoming);
    const uint64_t piece_bytes = ring_->piece_bytes(header_.size_bytes);
    uint64_t pieces = 0;
    // At most a ring's worth, so that other channels get their turn.
    for (; in_frame_ && pieces < ring_->slots(); ++pieces) {
      if (const Io io = look(); io != Io::kMoved) return pieces > 0 ? Io::kMoved : io;
      const uint64_t piece = std::min(incoming.left_bytes(), piece_bytes);
      take_slot(incoming, piece);
      in_frame_ = !incoming.done;
      ++consumed_;
      if (consumed_ - published_ >= publish_every_) publish(false);
    }
    return Io::kMoved;
  }

  void hang_up() noexcept override { close(); }

 private:
  void close() noexcept {
    ring_->words().receiver_closed.store(1, std::memory_order_release);
    peer_->ring();
  }

  Io nothing() const { return ring_->closed() ? Io::kClosed : Io::kBlocked; }
  // A sender may publish its last slot and close between two looks: closed is what was closed
  // before nothing was there.
  Io look() const {
    if (arrived()) return Io::kMoved;
    if (!ring_->closed()) return Io::kBlocked;
    return arrived() ? Io::kMoved : Io::kClosed;
  }
  const SlotControl& control() const { return ring_->control(consumed_); }
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

  // Not when it is made, by the thread that makes connections.
  void join() {
    credits_->receive_by(ring_);
    joined_ = true;
  }

  void take_slot(Incoming& incoming, uint64_t size_bytes) {
    if (header_.size_bytes <= kInlineBytes) {
      incoming.take(control().inline_bytes.data(), size_bytes);
      return;
    }
    if (!joined_) join();
    BufferName name;
    std::memcpy(&name, control().inline_bytes.data(), sizeof name);
    std::byte* const payload = credits_->find(name);
    if (payload == nullptr) {
      raise(ErrorKind::kPeerLost, "a frame names buffer " + std::to_string(name.buffer) + " of " +
                                      (name.of_receiver != 0 ? "the receiver's" : "its own") +
                                      " ring, which has none such");
    }
    incoming.take(payload, size_bytes);
    if (!credits_->keep(name, payload)) give_back(name, payload, size_bytes);
  }

  void give_back(BufferName name, std::byte* payload, uint64_t size_bytes) {
    if (takes_over_) take_over(payload, size_bytes);
    ring_->words().returns[given_back_++ % kReturns] = pack(name);
  }

  Io take_reference(Incoming& incoming) {
    std::byte* source = segments_->at(span_, header_.size_bytes);
    if (source == nullptr) return nothing();
    const uint64_t piece = std::min(incoming.left_bytes(), kReferencePieceBytes);
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
    if (ring_->closed()) {
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

  Io take_single_copy(Incoming& incoming) {
    SingleCopySpan span;
    std::memcpy(&span, control().inline_bytes.data(), sizeof span);
    const std::byte* const source = span.memory + incoming.received_bytes;
    const bool reduces = incoming.sink.reduces();
    const uint64_t piece =
        std::min(incoming.left_bytes(), reduces ? kScratchBytes : kReferencePieceBytes);
    if (reduces && scratch_.empty()) scratch_.resize(kScratchBytes);
    std::byte* const target = reduces ? scratch_.data() : incoming.next();
    if (const MemoryRead read = sender_.read(target, source, piece); read != MemoryRead::kDone) {
      return unreadable(read, piece);
    }
    if (reduces) {
      incoming.take(target, piece);
    } else {
      incoming.advance(piece);
    }
    return end_piece(incoming);
  }

  Io take_staged(Incoming& incoming) {
    StageSpan span;
    std::memcpy(&span, control().inline_bytes.data(), sizeof span);
    if (span.stage >= ring_->stages() || incoming.size_bytes > ring_->stage_bytes() ||
        span.answer == 0) {
      raise(ErrorKind::kPeerLost,
            "a frame of " + std::to_string(incoming.size_bytes) + " bytes names stage " +
                std::to_string(span.stage) + " for answer " + std::to_string(span.answer) +
                ", outside of a ring with " + std::to_string(ring_->stages()) + " stages of " +
                std::to_string(ring_->stage_bytes()) + " bytes");
    }
    std::byte* const source = ring_->stage(span.stage);
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

  // A sender that is gone or has closed will be heard of; one that goes on had better not be waited
  // for.
  Io unreadable(MemoryRead read, uint64_t size_bytes) const {
    const int why = errno;
    const Io io = nothing();
    if (read == MemoryRead::kGone || io == Io::kClosed) return io;
    raise_system(
        ErrorKind::kAborted,
        "the kernel refuses to copy " + std::to_string(size_bytes) +
            " bytes out of the sender's memory; tensors must lie in ordinary memory, and a "
            "rank must not change its user or become undumpable once it has a group",
        why);
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
    incoming.advance(incoming.size_bytes);
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
    const uint64_t last = published_ + ring_->slots() - 1;
    published_ = consumed_;
    ring_->words().given_back.store(given_back_, std::memory_order_release);
    ring_->words().consumed.store(published_, std::memory_order_release);
    fence(std::memory_order_seq_cst);
    const uint64_t flag = ring_->control(last).flag.load(std::memory_order_relaxed);
    if (awaited || flag >= flag_of(last)) peer_->ring();
  }

  const std::shared_ptr<const ShmRing> ring_;
  const std::shared_ptr<Doorbell> peer_;
  const std::shared_ptr<BufferCredits> credits_;
  const std::shared_ptr<PeerSegments> segments_;
  const SymmetricHeap* const heap_;
  const ProcessMemory sender_;
  std::vector<std::byte> scratch_;
  const uint64_t publish_every_;  // slots
  const bool takes_over_ = lines_stay_owned();
  uint64_t consumed_ = 0;    // slots
  uint64_t published_ = 0;   // slots that the sender was told of
  uint64_t given_back_ = 0;  // buffers
  bool joined_ = false;      // the credits know the ring
  bool in_frame_ = false;    // peek showed header_, and not all of its payload was taken
  SlotKind kind_ = SlotKind::kBytes;
  FrameHeader header_;
  SegmentSpan span_;
};

}  // namespace

std::unique_ptr<RecvChannel> make_shm_receiver(UniqueFd ring, std::shared_ptr<Doorbell> peer,
                                               std::shared_ptr<BufferCredits> credits,
                                               std::shared_ptr<PeerSegments> segments,
                                               const SymmetricHeap* heap, pid_t sender) {
  return std::make_unique<ShmReceiver>(ring, std::move(peer), std::move(credits),
                                       std::move(segments), heap, sender);
}

}  // namespace fastgpu
