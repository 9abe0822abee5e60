#include "control/pending_connections.h"

#include <sys/resource.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "control/probe.h"

namespace fastgpu {

std::size_t PendingConnections::default_limit() {
  constexpr std::size_t kMost = 4096;
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return kMost;
  return std::clamp<std::size_t>(files.rlim_cur / 2, 1, kMost);
}

PendingConnections::PendingConnections(EventLoop& loop, IsKnown is_known, Taken taken,
                                       std::size_t limit)
    : loop_(loop), is_known_(std::move(is_known)), taken_(std::move(taken)), limit_(limit) {}

void PendingConnections::add(Link link) {
  if (connections_.size() >= limit_) drop_oldest();
  const uint64_t id = next_id_++;
  const int fd = link.fd();
  Connection& connection = connections_[id];
  connection.link = std::move(link);
  connection.watch = loop_.watch(fd, [this, id] { read_first(id); });
  read_first(id);
}

void PendingConnections::read_first(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  try {
    ControlMessage first;
    const Received received = found->second.link.receive(first);
    if (received == Received::kNothing) return;
    if (received == Received::kMessage) return sort(id, std::move(first));
  } catch (const CommError& error) {
    log(LogLevel::kWarn, "connection_refused",
        "from=" + quoted(describe_peer(found->second.link.fd())) +
            " reason=" + quoted(error.what()));
  }
  connections_.erase(id);
}

void PendingConnections::sort(uint64_t id, ControlMessage first) {
  Connection& connection = connections_.at(id);
  if (first.kind == ControlKind::kProbe && connection.link.is_unix()) {
    connection.link.send(make_probe_answer());  // the peer reads it after the close, too
    connections_.erase(id);
    return;
  }
  const bool is_stream = first.kind == ControlKind::kStream && !connection.link.is_unix();
  if (first.kind != ControlKind::kHello && !is_stream) {
    raise_violation("its first message has kind " + std::to_string(static_cast<int>(first.kind)));
  }
  if (is_known_({first.communicator, first.to})) return take(id, std::move(first));
  connection.watch.reset();
  connection.first = std::move(first);
}

void PendingConnections::take(uint64_t id, ControlMessage first) {
  Connection& connection = connections_.at(id);
  connection.watch.reset();
  Link link = std::move(connection.link);
  connections_.erase(id);
  taken_(std::move(link), std::move(first));
}

void PendingConnections::resume(const MemberKey& key) {
  std::vector<uint64_t> ids;
  for (const auto& [id, connection] : connections_) {
    const auto& first = connection.first;
    if (first && first->communicator == key.communicator && first->to == key.rank)
      ids.push_back(id);
  }
  for (const uint64_t id : ids) take(id, std::move(*connections_.at(id).first));
}

bool PendingConnections::drop_oldest() {
  if (connections_.empty()) return false;
  if (!std::exchange(has_dropped_, true)) {
    log(LogLevel::kWarn, "connections_dropped",
        "reason=" + quoted("too many connections wait for a communicator, so the oldest of " +
                           std::to_string(connections_.size()) +
                           " is closed; raise the limit of open files (ulimit -n), or find out "
                           "which program connects to this process"));
  }
  connections_.erase(connections_.begin());
  return true;
}

}  // namespace fastgpu
