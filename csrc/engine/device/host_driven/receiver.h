// The receiving end of a device channel. try_recv() enqueues the copy or the reduction that reads
// the payload, in the peer's mapped memory or in a pinned chunk, and the frame is then done for the
// engine: work that is enqueued later finds its bytes. The peer gets an acknowledgement when the
// stream has read the payload.
//
// Ownership: the Route's parts outlive it. Threading: channel.h.
#pragma once

#include <array>
#include <atomic>
#include <deque>

#include "engine/device/host_driven/pinned_chunks.h"
#include "engine/device/host_driven/post.h"
#include "engine/device/host_driven/route.h"

namespace fastgpu {

class DeviceReceiver final : public RecvChannel {
 public:
  explicit DeviceReceiver(const Route& route);
  ~DeviceReceiver() override;
  DeviceReceiver(const DeviceReceiver&) = delete;
  DeviceReceiver& operator=(const DeviceReceiver&) = delete;

  Io peek(FrameHeader& header) override;
  Io try_recv(Incoming& incoming) override;
  void hang_up() noexcept override { closed_.store(true, std::memory_order_release); }

  // Sends the acknowledgements that are due.
  Io pump();

 private:
  struct Acknowledgement {
    uint64_t mark = 0;  // behind the work that reads the payload
    Outgoing frame;
  };

  void change_pending(int64_t change) const;
  Io take(Incoming& incoming);
  Io take_post();
  void check_post() const;
  Io take_mapped(Incoming& incoming);
  Io take_bytes(Incoming& incoming);
  void enqueue(const Incoming& incoming, const std::byte* source, uint64_t size_bytes) const;

  const Route route_;
  std::atomic<bool> closed_{false};
  FrameHeader header_;  // of the frame that peek() shows
  Post post_;           // arrives in pieces
  Incoming post_in_;
  bool in_post_ = false;   // a part of post_ has arrived
  bool in_bytes_ = false;  // a payload that follows its post is being taken
  bool in_frame_ = false;  // post_ has arrived, and its payload is not yet taken
  std::deque<Acknowledgement> due_;

  PinnedChunks chunks_;
  uint64_t next_chunk_ = 0;
  Incoming piece_in_;  // into the next chunk
  bool in_piece_ = false;
  std::array<uint64_t, kChunks> marks_{};  // behind the work that reads a chunk
};

}  // namespace fastgpu
