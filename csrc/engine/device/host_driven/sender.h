// The sending end of a device channel. A frame is announced once the work that makes its payload
// has passed in the stream, and no sooner: no kernel ever waits for a peer.
//
//   in a segment that the peer maps: the post names its place; the frame has left when the peer
//                                    acknowledges that its own work has read it
//   other memory, other hosts:       the payload is copied to pinned chunks and sent from there; it
//                                    has left when the last copy to a chunk is enqueued
//
// Ownership: the Route's parts outlive it. Threading: channel.h.
#pragma once

#include <atomic>
#include <deque>
#include <vector>

#include "engine/device/host_driven/pinned_chunks.h"
#include "engine/device/host_driven/post.h"
#include "engine/device/host_driven/route.h"

namespace fastgpu {

class DeviceSender final : public SendChannel {
 public:
  explicit DeviceSender(const Route& route);
  ~DeviceSender() override;
  DeviceSender(const DeviceSender&) = delete;
  DeviceSender& operator=(const DeviceSender&) = delete;

  Io try_send(Outgoing& frame) override;
  void hang_up() noexcept override { closed_.store(true, std::memory_order_release); }

  // Goes on with frames under way, also after their operation has ended.
  Io pump();

 private:
  // The most frames under way at a time.
  static constexpr std::size_t kMostFrames = 64;

  struct Piece {
    uint64_t mark = 0;  // behind its copy to the chunk
    Outgoing frame;
  };
  struct Frame {
    FrameHeader header;
    const std::byte* payload = nullptr;
    Post post;
    Outgoing announcement;
    uint64_t mark = 0;  // behind the work that makes a payload which is not copied
    uint64_t copied_bytes = 0;
    uint64_t sent_bytes = 0;
    bool left = false;
  };

  Io send(Outgoing& frame);
  void add(const Outgoing& frame);
  Post post_for(const Outgoing& frame);
  bool is_announced(const Frame& frame) const { return frame.announcement.done; }
  bool is_sent(const Frame& frame) const;
  Io announce(Frame& frame);
  Io send_bytes(Frame& frame);
  bool copy_to_chunks(Frame& frame);
  Io send_frames();
  Io read_acknowledgements();
  bool end_frames();
  bool has_left(uint64_t number) const;

  const Route route_;
  std::atomic<bool> closed_{false};
  std::vector<uint32_t> shared_;  // segments that were shared with the peer
  std::deque<Frame> frames_;      // under way, in order
  uint64_t added_ = 0;            // frames, since the channel began
  PinnedChunks chunks_;
  uint64_t next_chunk_ = 0;
  std::deque<Piece> pieces_;  // copied, or being copied, to chunks; not sent to the end
};

}  // namespace fastgpu
