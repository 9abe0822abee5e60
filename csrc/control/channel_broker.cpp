#include "control/channel_broker.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "base/error.h"
#include "transport/tcp/tcp.h"

namespace fastgpu {

std::vector<UniqueFd> ChannelBroker::own_doorbell() const {
  std::vector<UniqueFd> descriptors;
  for (const int fd : {engine_.doorbell().page_fd(), engine_.doorbell().event_fd()}) {
    descriptors.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!descriptors.back()) {
      raise_system(ErrorKind::kRendezvous, "cannot pass the doorbell to a peer", errno);
    }
  }
  return descriptors;
}

std::unique_ptr<SendChannel> ChannelBroker::ring_sender(const RingPeer& peer, int lane,
                                                        UniqueFd ring, ShareSegment share) {
  return make_shm_sender(std::move(ring), peer.doorbell, end_of(peer, lane), &heap_,
                         std::move(share));
}

std::unique_ptr<RecvChannel> ChannelBroker::ring_receiver(const RingPeer& peer, int lane,
                                                          UniqueFd ring) {
  return make_shm_receiver(std::move(ring), peer.doorbell, end_of(peer, lane), peer.segments,
                           &heap_, peer.process);
}

std::unique_ptr<SendChannel> ChannelBroker::stream_sender(std::unique_ptr<Stream> stream) {
  return make_tcp_sender(std::move(stream), engine_);
}

std::unique_ptr<RecvChannel> ChannelBroker::stream_receiver(std::unique_ptr<Stream> stream) {
  return make_tcp_receiver(std::move(stream), engine_);
}

std::shared_ptr<ShmEnd> ChannelBroker::end_of(const RingPeer& peer, int lane) {
  std::weak_ptr<ShmEnd>& known = ends_[{peer.pair, lane, peer.process}];
  std::shared_ptr<ShmEnd> end = known.lock();
  if (!end) known = end = make_shm_end();
  return end;
}

void ChannelBroker::forget(const MemberKey& key) {
  std::erase_if(ends_,
                [&](const auto& entry) { return std::get<PairKey>(entry.first).member == key; });
}

}  // namespace fastgpu
