#include "control/pending_connections.h"

#include <sys/resource.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "control/probe.h"

namespace fastgpu {
namespace {

constexpr TimeNs kCloseLateInterval = kSecond;

std::size_t half_of_open_files() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return SIZE_MAX;
  return std::max<std::size_t>(files.rlim_cur / 2, 1);
}

}  // namespace

PendingConnections::PendingConnections(EventLoop& loop, Events events)
    : PendingConnections(loop, std::move(events), Limits{}) {}

PendingConnections::PendingConnections(EventLoop& loop, Events events, const Limits& limits)
    : loop_(loop), events_(std::move(events)), limits_(limits) {}

void PendingConnections::expect(std::size_t connections) {
  const std::size_t wanted = std::min(2 * connections, half_of_open_files());
  limits_.connections = std::max(limits_.connections, wanted);
}

void PendingConnections::add(Link link) {
  if (connections_.size() >= limits_.connections) make_room();
  const uint64_t id = next_id_++;
  Connection& connection = connections_[id];
  connection.link = std::move(link);
  connection.source = describe_peer(connection.link.fd());
  connection.since = now_ns();
  try {
    connection.watch = loop_.watch(connection.link.fd(), [this, id] { read_first(id); });
  } catch (const OutOfResourcesError& error) {
    close(id, error.failure());
    return events_.run_out(error.failure());
  }
  schedule_close_late();
  read_first(id);
}

void PendingConnections::read_first(uint64_t id) {
  guard(id, [&] {
    ControlMessage first;
    const Received received = connections_.at(id).link.receive(first);
    if (received == Received::kMessage) sort(id, std::move(first));
    if (received == Received::kClosed) connections_.erase(id);
  });
}

// Closes the connection if it cannot be served.
void PendingConnections::guard(uint64_t id, const std::function<void()>& body) {
  if (!connections_.contains(id)) return;
  try {
    body();
  } catch (const OutOfResourcesError& error) {
    close(id, error.failure());
    events_.run_out(error.failure());
  } catch (const CommError& error) {
    log(LogLevel::kWarn, "connection_refused",
        "from=" + in_quotes(connections_.at(id).source) + " reason=" + in_quotes(error.what()));
    connections_.erase(id);
  }
}

void PendingConnections::sort(uint64_t id, ControlMessage first) {
  Connection& connection = connections_.at(id);
  connection.watch.reset();
  const bool is_unix = connection.link.is_unix();
  if (first.kind == ControlKind::kProbe && is_unix) {
    answer_probe(std::move(connection.link));
    connections_.erase(id);
    return;
  }
  if (first.kind == ControlKind::kHello) return take(id, std::move(first));
  if (first.kind != ControlKind::kStream || is_unix) {
    raise_violation("its first message has kind " + std::to_string(static_cast<int>(first.kind)));
  }
  switch (events_.state_of(first.receiver())) {
    case Registry::State::kAttached:
      return take(id, std::move(first));
    case Registry::State::kExpected:
      connection.first = std::move(first);
      return;
    case Registry::State::kUnknown:
      raise(ErrorKind::kPeerLost, "it names a group that this process does not have");
  }
}

// The peer reads the answer after the close, too.
void PendingConnections::answer_probe(Link link) {
  try {
    link.send(make_probe_answer());
  } catch (const OutOfResourcesError& error) {
    refuse(std::move(link), error.failure());
  }
}

void PendingConnections::take(uint64_t id, ControlMessage first) {
  Link link = std::move(connections_.at(id).link);
  connections_.erase(id);
  events_.taken(std::move(link), std::move(first));
}

void PendingConnections::resume(const MemberKey& key) {
  std::vector<uint64_t> ids;
  for (const auto& [id, connection] : connections_) {
    if (connection.first && connection.first->receiver() == key) ids.push_back(id);
  }
  for (const uint64_t id : ids) {
    guard(id, [&] { sort(id, std::move(*connections_.at(id).first)); });
  }
}

void PendingConnections::close(uint64_t id, const Failure& why) {
  Connection& connection = connections_.at(id);
  connection.watch.reset();
  refuse(std::move(connection.link), why);
  connections_.erase(id);
}

bool PendingConnections::drop_silent(const Failure& why) {
  const auto silent = std::ranges::find_if(
      connections_, [](const auto& entry) { return !entry.second.first.has_value(); });
  if (silent == connections_.end() || now_ns() - silent->second.since < limits_.spared) {
    return false;
  }
  close(silent->first, why);
  return true;
}

// Prefers connections that have sent nothing yet.
void PendingConnections::make_room() {
  std::map<std::string, std::size_t> by_source;
  for (const auto& [id, connection] : connections_) ++by_source[connection.source];
  const auto largest = std::ranges::max_element(
      by_source, [](const auto& left, const auto& right) { return left.second < right.second; });
  uint64_t dropped = 0;
  for (const auto& [id, connection] : connections_) {
    if (connection.source != largest->first) continue;
    if (dropped == 0 || !connection.first) dropped = id;
    if (!connection.first) break;
  }
  const std::string why = "closed a connection because " + std::to_string(connections_.size()) +
                          " connections wait, " + std::to_string(largest->second) +
                          " of them from " + largest->first +
                          "; find out which program opens them, or raise the limit of open files "
                          "(ulimit -n)";
  if (!std::exchange(has_dropped_, true)) {
    log(LogLevel::kWarn, "connections_dropped", "reason=" + in_quotes("this process " + why));
  }
  close(dropped, make_failure(ErrorKind::kOutOfResources, why));
}

void PendingConnections::schedule_close_late() {
  if (std::exchange(is_scheduled_, true)) return;
  loop_.call_after(kCloseLateInterval, [this] {
    is_scheduled_ = false;
    close_late();
    if (!connections_.empty()) schedule_close_late();
  });
}

void PendingConnections::close_late() {
  const TimeNs now = now_ns();
  std::vector<uint64_t> late;
  for (const auto& [id, connection] : connections_) {
    if (!connection.first && now - connection.since >= limits_.silent) late.push_back(id);
  }
  for (const uint64_t id : late) {
    const std::string why = "closed a connection that sent nothing for " +
                            std::to_string(limits_.silent / kSecond) + " s";
    log(LogLevel::kWarn, "connection_closed",
        "from=" + in_quotes(connections_.at(id).source) +
            " reason=" + in_quotes("this process " + why));
    close(id, make_failure(ErrorKind::kPeerLost, why));
  }
}

}  // namespace fastgpu
