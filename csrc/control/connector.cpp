#include "control/connector.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "control/probe.h"

namespace fastgpu {
namespace {

constexpr TimeNs kDetachLimit = kSecond;
constexpr TimeNs kShortageRetryInterval = 100 * kMillisecond;

void log_ended(const CommError& error) {
  log(LogLevel::kInfo, "link_closed", "reason=" + in_quotes(error.what()));
}

}  // namespace

Connector::Connector(Poller& engine, const SymmetricHeap& heap, TimeNs leave_limit)
    : leave_limit_(leave_limit),
      broker_(engine, heap),
      dialler_(loop_),
      opener_(loop_, dialler_, registry_, broker_),
      pending_(loop_, {.is_known = [this](const MemberKey& key) { return registry_.has(key); },
                       .taken =
                           [this](Link link, ControlMessage first) {
                             take_connection(std::move(link), std::move(first));
                           },
                       .run_out = [this](const Failure& why) { registry_.fail_all(why); }}),
      listener_(loop_,
                {.accepted = [this](Link link) { pending_.add(std::move(link)); },
                 .make_room = [this](const Failure& why) { return pending_.drop_silent(why); },
                 .run_out = [this](const Failure& why) { registry_.fail_all(why); }},
                ::geteuid()),
      thread_(start_thread("fastgpu-control", [this] { loop_.run(); })) {}

Connector::~Connector() {
  loop_.stop();
  thread_.join();
}

bool Connector::probe(const std::string& unix_name, TimeNs deadline) const {
  return can_map_memory_of(unix_name, deadline);
}

void Connector::expect(std::size_t connections) {
  loop_.post([this, connections] { pending_.expect(connections); });
}

void Connector::attach(uint64_t communicator, int rank, std::shared_ptr<ConnectionSink> sink,
                       std::vector<PeerAddress> peers) {
  const MemberKey key{communicator, rank};
  run_and_wait(
      [&] {
        registry_.attach(key, std::move(sink), std::move(peers));
        pending_.resume(key);
      },
      kNever);
}

void Connector::open(uint64_t communicator, int rank, int peer, int lane) {
  loop_.post([=, this] { open_channel({{communicator, rank}, peer}, lane); });
}

void Connector::fail(uint64_t communicator, int rank, const Failure& failure) {
  loop_.post([=, this] {
    for_each_link({communicator, rank}, [&](PeerLink& link) { link.send_failure(failure); });
  });
}

void Connector::detach(uint64_t communicator, int rank, const std::string& why) {
  run_and_wait([=, this] { leave({communicator, rank}, why); }, now_ns() + kDetachLimit);
}

// The command may be run after this has returned, unless the deadline is kNever.
void Connector::run_and_wait(const std::function<void()>& command, TimeNs deadline) {
  if (std::this_thread::get_id() == thread_.get_id()) return command();
  auto done = std::make_shared<std::promise<void>>();
  const std::future<void> finished = done->get_future();
  loop_.post([command, done] {
    command();
    done->set_value();
  });
  if (deadline == kNever) return finished.wait();
  finished.wait_for(std::chrono::nanoseconds(deadline - now_ns()));
}

void Connector::take_connection(Link link, ControlMessage first) {
  const PairKey pair{{first.communicator, first.to}, first.from};
  const std::string from = describe_peer(link.fd());
  try {
    registry_.check_peer(pair);
    if (first.kind == ControlKind::kStream) {
      take_stream(std::move(link), first, pair);
    } else {
      take_hello(std::move(link), std::move(first), pair);
    }
  } catch (const OutOfResourcesError& error) {
    registry_.give_up(pair, error.failure());
  } catch (const CommError& error) {
    log(LogLevel::kWarn, "connection_refused",
        "from=" + in_quotes(from) + " reason=" + in_quotes(error.what()));
  }
}

void Connector::take_hello(Link link, ControlMessage hello, const PairKey& pair) {
  const PeerLink::Key key{.pair = pair, .is_dialled = false};
  if (links_.contains(key)) {
    raise_violation("a second hello came from rank " + std::to_string(pair.peer));
  }
  try {
    add_link(key).accept(std::move(link), std::move(hello));
    watch(key);
  } catch (const OutOfResourcesError&) {  // the link stays, so that the peer can be told
    throw;
  } catch (const CommError&) {
    links_.erase(key);
    throw;
  }
}

void Connector::take_stream(Link link, const ControlMessage& message, const PairKey& pair) {
  constexpr auto kMost = static_cast<uint32_t>(std::numeric_limits<int>::max());
  const int lane = static_cast<int>(std::min(message.number, kMost));
  registry_.channel_arrived(pair, lane, broker_.stream_receiver(link.release_stream()));
}

void Connector::open_channel(const PairKey& pair, int lane) {
  const PeerAddress* found = registry_.find(pair);
  if (found == nullptr) return;
  const PeerAddress address = *found;
  try {
    ensure_link(pair, address);
    if (!address.shared_memory) return opener_.open(pair, lane);
    const auto link = links_.find({.pair = pair, .is_dialled = true});
    if (link != links_.end()) link->second.open_ring(lane);  // else the socket refused at once
  } catch (const CommError& error) {
    registry_.give_up(pair, error.failure());
  }
}

// Dials the link, unless it exists.
void Connector::ensure_link(const PairKey& pair, const PeerAddress& address) {
  const PeerLink::Key key{.pair = pair, .is_dialled = true};
  if (links_.contains(key)) return;
  const bool is_unix = address.shared_memory;
  add_link(key).say_hello(is_unix);
  dialler_.dial(address, [this, key, is_unix](UniqueFd socket, const Failure& why) {
    on_dialled(key, std::move(socket), is_unix, why);
  });
}

void Connector::on_dialled(const PeerLink::Key& key, UniqueFd socket, bool is_unix,
                           const Failure& why) {
  const auto found = links_.find(key);
  if (found == links_.end()) return;
  if (!socket) {
    links_.erase(found);
    return registry_.give_up(key.pair, why);
  }
  try {
    found->second.connect(std::move(socket), is_unix);
    watch(key);
  } catch (const CommError& error) {
    registry_.give_up(key.pair, error.failure());
  }
}

PeerLink& Connector::add_link(const PeerLink::Key& key) {
  const auto share = [this, key](uint32_t segment) {  // called by the engine
    loop_.post([this, key, segment] {
      const auto found = links_.find(key);
      if (found == links_.end()) return;
      try {
        found->second.send_segment(segment);
      } catch (const CommError& error) {
        on_error(key.pair, error);
      }
    });
  };
  return links_.try_emplace(key, key, registry_, broker_, share).first->second;
}

// The loop reports the socket at once if there is something to read already.
void Connector::watch(const PeerLink::Key& key) {
  PeerLink& link = links_.at(key);
  link.set_watch(loop_.watch(link.fd(), [this, key] { on_event(key); }));
}

void Connector::on_event(const PeerLink::Key& key) {
  const auto found = links_.find(key);
  if (found == links_.end()) return;
  try {
    const PeerLink::State state = found->second.on_event();
    if (state == PeerLink::State::kOpen) return;
    if (state == PeerLink::State::kMore) return loop_.post([this, key] { on_event(key); });
    end_link(key,
             "its process ended or its connection broke; its output, or that of the launcher, may "
             "say why");
  } catch (const OutOfResourcesError& error) {  // the link is intact: by it the peer is told
    registry_.give_up(key.pair, error.failure());
    loop_.call_after(kShortageRetryInterval, [this, key] { on_event(key); });
  } catch (const CommError& error) {
    log_ended(error);
    end_link(key, error.what());
  }
}

void Connector::end_link(const PeerLink::Key& key, const std::string& why) {
  links_.erase(key);
  if (!registry_.link_ended(key.pair, why)) return;
  loop_.call_after(leave_limit_, [this, pair = key.pair] { registry_.lose_incomplete(pair); });
}

// Reports a shortage. A broken connection needs no report: its own event follows.
void Connector::on_error(const PairKey& pair, const CommError& error) {
  log_ended(error);
  if (error.failure().kind == ErrorKind::kOutOfResources) registry_.give_up(pair, error.failure());
}

void Connector::leave(const MemberKey& key, const std::string& why) {
  for_each_link(key, [&](PeerLink& link) { link.send_leave(why); });
  std::vector<PeerLink::Key> links;
  for (const auto& [link_key, link] : links_) {
    if (link_key.pair.member == key) links.push_back(link_key);
  }
  registry_.detach(key);
  broker_.forget(key);
  for (const PeerLink::Key& link : links) {
    if (links_.at(link).is_connected()) on_event(link);  // ends it, unless messages wait
  }
}

void Connector::for_each_link(const MemberKey& key, const std::function<void(PeerLink&)>& what) {
  for (auto& [link_key, link] : links_) {
    if (link_key.pair.member != key) continue;
    try {
      what(link);
    } catch (const CommError& error) {
      on_error(link_key.pair, error);
    }
  }
}

}  // namespace fastgpu
