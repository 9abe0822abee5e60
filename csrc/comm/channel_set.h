// The channels of one communicator: where its schedules' peers and lanes become connections, opened
// at first use. Between the progress thread, who asks for channels, and the connector's control
// thread, who brings them. Threading: sender and receiver are the progress thread's; on_* the
// control thread's; the rest any thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "control/connector.h"
#include "engine/engine.h"
#include "engine/lane_run.h"

namespace fastgpu {

class ChannelSet : public ChannelSource, public ConnectionSink {
 public:
  using Open = std::function<void(int peer, int lane)>;
  using Failed = std::function<void(int peer, const Failure& failure)>;

  // A peer that closes a channel says why on its control link. Where its control thread and ours
  // wait for a core that takes a while, and who believed the channel would blame the wrong rank. A
  // network that is cut may never say it.
  static constexpr TimeNs kReasonLimit = 10 * kSecond;

  // `open` asks the connector for the channel of one lane; `failed` hears of a peer's failure.
  ChannelSet(Engine& engine, int world, int lanes, Open open, Failed failed,
             TimeNs reason_limit = kReasonLimit);

  SendChannel* sender(int peer, int lane) override;
  RecvChannel* receiver(int peer, int lane) override;
  bool departed(int peer) override;
  uint64_t version() const override { return version_.load(std::memory_order_acquire); }

  void on_sender(int peer, int lane, std::unique_ptr<SendChannel> channel) override;
  void on_receiver(int peer, int lane, std::unique_ptr<RecvChannel> channel) override;
  void on_departed(int peer, bool in_order, const std::string& why) override;
  void on_failed(int peer, const Failure& failure) override;

  // Why the peer is gone: "has left the group", "was lost: its process ended", "closed its
  // connection and gave no reason"; empty if it is not.
  std::string departure(int peer) const;
  Presence presence(int peer) const override;
  // Hangs up every channel, and those still to come.
  void hang_up() noexcept;

 private:
  struct Slot {
    std::atomic<SendChannel*> sender{nullptr};
    std::atomic<RecvChannel*> receiver{nullptr};
    bool opening = false;  // whose the lane is
  };
  Slot& slot(int peer, int lane) {
    return slots_[static_cast<std::size_t>(peer) * static_cast<std::size_t>(lanes_) +
                  static_cast<std::size_t>(lane)];
  }

  Engine& engine_;
  const int lanes_;
  const TimeNs reason_limit_;
  const Open open_;
  const Failed failed_;
  std::vector<Slot> slots_;
  std::atomic<uint64_t> version_{0};

  mutable std::mutex mutex_;  // guards what follows
  std::vector<std::unique_ptr<SendChannel>> senders_;
  std::vector<std::unique_ptr<RecvChannel>> receivers_;
  std::vector<TimeNs> closed_since_;     // by peer; 0: not closed
  std::vector<std::string> departures_;  // by peer; empty: still there
  std::vector<Presence> presences_;      // by peer
  bool hung_up_ = false;
};

}  // namespace fastgpu
