#include "control/link.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "base/log.h"

namespace fastgpu {

using Length = uint32_t;

void Link::send(ControlMessage message) {
  queue(std::move(message));
  flush();
}

void Link::queue(ControlMessage message) {
  const std::vector<std::byte> bytes = encode(message);
  const auto length = static_cast<Length>(bytes.size());
  Queued queued;
  queued.bytes.resize(sizeof(length) + bytes.size());
  std::memcpy(queued.bytes.data(), &length, sizeof(length));
  std::memcpy(queued.bytes.data() + sizeof(length), bytes.data(), bytes.size());
  queued.descriptors = std::move(message.descriptors);
  outbox_.push_back(std::move(queued));
}

void Link::flush() {
  if (!is_connected()) return;
  while (!outbox_.empty() &&
         (is_unix() ? send_packet(outbox_.front()) : send_bytes(outbox_.front())))
    outbox_.pop_front();
}

bool Link::send_packet(const Queued& queued) {
  std::vector<int> descriptors;
  descriptors.reserve(queued.descriptors.size());
  for (const UniqueFd& fd : queued.descriptors) descriptors.push_back(fd.get());
  return send_message(socket_.get(), std::span(queued.bytes).subspan(sizeof(Length)), descriptors);
}

bool Link::send_bytes(Queued& queued) {
  while (queued.sent < queued.bytes.size()) {
    const std::array<iovec, 1> rest = {iovec{.iov_base = queued.bytes.data() + queued.sent,
                                             .iov_len = queued.bytes.size() - queued.sent}};
    std::size_t size = 0;
    const Io io = stream_->write(rest, &size);
    if (io == Io::kBlocked) return false;
    if (io == Io::kClosed) raise(ErrorKind::kPeerLost, "its control connection broke");
    queued.sent += size;
  }
  return true;
}

Received Link::receive(ControlMessage& message) {
  if (!is_connected()) return Received::kNothing;
  if (!is_unix()) return receive_bytes(message);
  Message packet;
  const Received received = recv_message(socket_.get(), packet);
  if (received != Received::kMessage) return received;
  message = decode(packet.bytes);
  message.descriptors = std::move(packet.descriptors);
  return received;
}

Received Link::receive_bytes(ControlMessage& message) {
  for (;;) {
    Length length = 0;
    std::size_t wanted = sizeof(length);
    if (partial_.size() >= sizeof(length)) {
      std::memcpy(&length, partial_.data(), sizeof(length));
      if (length > kMaxControlBytes) {
        raise_violation("a message of " + std::to_string(length) + " bytes; the limit is " +
                        std::to_string(kMaxControlBytes));
      }
      wanted += length;
      if (partial_.size() == wanted) break;
    }
    const std::size_t had = partial_.size();
    partial_.resize(wanted);
    const std::array<iovec, 1> rest = {
        iovec{.iov_base = partial_.data() + had, .iov_len = wanted - had}};
    std::size_t size = 0;
    const Io io = stream_->read(rest, &size);
    partial_.resize(had + size);
    if (io != Io::kMoved) return io == Io::kBlocked ? Received::kNothing : Received::kClosed;
  }
  message = decode(std::span(partial_).subspan(sizeof(Length)));
  partial_.clear();
  return Received::kMessage;
}

void refuse(Link link, const Failure& why) noexcept {
  try {
    ControlMessage message;
    message.kind = ControlKind::kFail;
    message.failure = why;
    link.send(std::move(message));
  } catch (const std::exception& error) {  // the peer has ended
    log(LogLevel::kInfo, "refusal_not_sent", "reason=" + in_quotes(error.what()));
  }
}

}  // namespace fastgpu
