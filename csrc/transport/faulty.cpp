#include "transport/faulty.h"

#include <random>

namespace fastgpu {
namespace {

// Decides for every call whether it fails, and how.
class FaultDice {
 public:
  explicit FaultDice(const FaultPlan& plan) : plan_(plan), random_(plan.seed) {}

  // kMoved: the call goes through.
  Io next() {
    const uint64_t call = calls_++;
    if (call >= plan_.close_after_calls) return Io::kClosed;
    if (call >= plan_.freeze_after_calls) return Io::kBlocked;
    return block_(random_) < plan_.block_probability ? Io::kBlocked : Io::kMoved;
  }
  bool corrupts(uint64_t frame) const { return frame == plan_.corrupt_frame; }
  // The index of the bit to flip, among the 128 of the key.
  uint64_t corrupt_bit() const { return plan_.seed % 128; }

 private:
  FaultPlan plan_;
  std::mt19937_64 random_;
  std::uniform_real_distribution<double> block_{0.0, 1.0};
  uint64_t calls_ = 0;
};

class FaultySender : public SendChannel {
 public:
  FaultySender(std::unique_ptr<SendChannel> channel, const FaultPlan& plan)
      : channel_(std::move(channel)), dice_(plan) {}

  Io try_send(Outgoing& frame) override {
    const Io fault = dice_.next();
    if (fault == Io::kClosed) channel_->hang_up();
    return fault == Io::kMoved ? channel_->try_send(frame) : fault;
  }

  void hang_up() noexcept override { channel_->hang_up(); }

 private:
  std::unique_ptr<SendChannel> channel_;
  FaultDice dice_;
};

class FaultyReceiver : public RecvChannel {
 public:
  FaultyReceiver(std::unique_ptr<RecvChannel> channel, const FaultPlan& plan)
      : channel_(std::move(channel)), dice_(plan) {}

  Io peek(FrameHeader& header) override {
    const Io fault = roll();
    if (fault != Io::kMoved) return fault;
    const Io io = channel_->peek(header);
    if (io == Io::kMoved && dice_.corrupts(frame_)) {
      const uint64_t bit = dice_.corrupt_bit();
      header.key[bit / 64] ^= uint64_t{1} << (bit % 64);
    }
    return io;
  }

  Io try_recv(Incoming& incoming) override {
    const Io fault = roll();
    if (fault != Io::kMoved) return fault;
    const Io io = channel_->try_recv(incoming);
    if (incoming.done) ++frame_;
    return io;
  }

  void hang_up() noexcept override { channel_->hang_up(); }

 private:
  Io roll() {
    const Io fault = dice_.next();
    if (fault == Io::kClosed) channel_->hang_up();
    return fault;
  }

  std::unique_ptr<RecvChannel> channel_;
  FaultDice dice_;
  uint64_t frame_ = 0;  // the number of the one being received
};

}  // namespace

std::unique_ptr<SendChannel> make_faulty(std::unique_ptr<SendChannel> channel,
                                         const FaultPlan& plan) {
  return std::make_unique<FaultySender>(std::move(channel), plan);
}

std::unique_ptr<RecvChannel> make_faulty(std::unique_ptr<RecvChannel> channel,
                                         const FaultPlan& plan) {
  return std::make_unique<FaultyReceiver>(std::move(channel), plan);
}

}  // namespace fastgpu
