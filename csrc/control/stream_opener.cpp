#include "control/stream_opener.h"

#include <string>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "transport/tcp/tcp.h"

namespace fastgpu {

void StreamOpener::open(const PairKey& pair, int lane) {
  const PeerAddress* address = registry_.find(pair);
  if (address == nullptr) return;
  dialler_.dial(*address, [this, pair, lane](UniqueFd socket, const Failure& why) {
    if (!socket) return registry_.give_up(pair, why);
    if (registry_.find(pair) != nullptr) announce(pair, lane, std::move(socket));
  });
}

void StreamOpener::announce(const PairKey& pair, int lane, UniqueFd socket) {
  const uint64_t id = next_id_++;
  Opening& opening = openings_[id];
  opening.pair = pair;
  opening.lane = lane;
  opening.link = Link(make_tcp_stream(std::move(socket)));
  try {
    opening.watch = loop_.watch(opening.link.fd(), [this, id] { finish_when_sent(id); });
  } catch (const CommError& error) {
    openings_.erase(id);
    return registry_.give_up(pair, error.failure());
  }
  registry_.count_opened(pair);
  opening.link.queue(message_to(pair, ControlKind::kStream, static_cast<uint32_t>(lane)));
  finish_when_sent(id);
}

void StreamOpener::finish_when_sent(uint64_t id) {
  const auto found = openings_.find(id);
  if (found == openings_.end()) return;
  Opening& opening = found->second;
  try {
    opening.link.flush();
    if (!opening.link.all_sent()) return;
    opening.watch.reset();
    registry_.channel_opened(opening.pair, opening.lane,
                             make_tcp_sender(opening.link.release_stream(), engine_));
  } catch (const OutOfResourcesError& error) {
    registry_.give_up(opening.pair, error.failure());
  } catch (const CommError& error) {  // the end of the peer's control link says more
    log(LogLevel::kInfo, "stream_broke", "reason=" + in_quotes(error.what()));
  }
  openings_.erase(found);
}

}  // namespace fastgpu
