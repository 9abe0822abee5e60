#include "control/channel_broker.h"

#include <sys/stat.h>

#include <utility>

#include "transport/tcp/tcp.h"

namespace fastgpu {

std::vector<UniqueFd> ChannelBroker::own_doorbell() const {
  std::vector<UniqueFd> descriptors;
  for (const int fd : {engine_.doorbell().page_fd(), engine_.doorbell().event_fd()}) {
    descriptors.push_back(duplicate(fd, "the doorbell"));
  }
  return descriptors;
}

// Inode numbers identify pages, because a number is not reused while its page is mapped.
std::shared_ptr<Doorbell> ChannelBroker::doorbell_of(pid_t process, UniqueFd page, UniqueFd event) {
  struct stat status{};
  ::fstat(page.get(), &status);
  const DoorbellKey key{process, status.st_ino};
  if (const auto known = doorbells_.find(key); known != doorbells_.end()) {
    if (auto doorbell = known->second.lock()) return doorbell;
  }
  const auto made = std::make_shared<Doorbell>(Doorbell::attach(std::move(page), std::move(event)));
  std::erase_if(doorbells_, [](const auto& entry) { return entry.second.expired(); });
  doorbells_[key] = made;
  return made;
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
