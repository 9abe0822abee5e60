// The channels of one communicator, by peer and lane. A channel is opened when it is first used:
// the polling thread asks for it, and the connector's control thread delivers it.
//
// Ownership: owns every channel until it is destroyed, so pointers to channels stay valid.
// Threading: sender() and receiver() belong to the polling thread, on_*() to the control thread;
// any thread may call the rest.
// Invariants: a slot changes from nullptr to a channel once, and never again. A peer that has
// departed stays departed, and all its slots are filled.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "control/connector.h"
#include "device/runtime.h"
#include "engine/engine.h"
#include "engine/lane_run.h"

namespace fastgpu {

class ChannelSet : public ChannelSource, public ConnectionSink {
 public:
  using Open = std::function<void(int peer, int lane)>;
  // Called on the control thread: `take` with a segment of GPU memory that a peer has passed, and
  // `note_mapped` when a peer has mapped a segment of this rank.
  struct DeviceSegments {
    std::function<void(int peer, uint32_t segment, const SharedSegment& shared)> take;
    std::function<void(int peer, uint32_t segment)> note_mapped;
  };
  using Failed = std::function<void(int peer, const Failure& failure)>;

  // A peer that closes a channel gives the reason on its control link. On a busy machine the reason
  // may arrive later than the end of the channel, and without it the error would blame the wrong
  // rank. A network that is cut never delivers it, so the wait has this limit.
  static constexpr TimeNs kReasonLimit = 10 * kSecond;

  // `open` asks the connector for a channel that sends. `failed` is called for every failure;
  // `peer` and Failure::rank are the peer that reported it, or kNoRank if this process did.
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
  void on_device_segment(int peer, uint32_t segment, uint64_t size_bytes,
                         UniqueFd descriptor) override;
  void on_device_segment_mapped(int peer, uint32_t segment) override;

  // Why the peer is gone, to follow its name in an error: "has left the group ...", "was lost: its
  // process ended", "closed its connection and gave no reason ...". Empty while it is there.
  std::string departure(int peer) const;
  Presence presence(int peer) const override;
  // Before that, a peer that passes or maps GPU memory is broken.
  void expect_device_segments(DeviceSegments sink);
  // Hangs up all channels, and every channel that is delivered later.
  void hang_up() noexcept;

 private:
  struct Slot {
    std::atomic<SendChannel*> sender{nullptr};
    std::atomic<RecvChannel*> receiver{nullptr};
    bool opening = false;  // `open` was called; used by the polling thread only
  };
  DeviceSegments device_segments(int peer) const;
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
  std::vector<TimeNs> closed_since_;     // by peer: when departed() was first called; 0: never
  std::vector<std::string> departures_;  // by peer: what departure() returns
  std::vector<Presence> presences_;      // by peer
  bool hung_up_ = false;
  DeviceSegments device_segments_;
};

}  // namespace fastgpu
