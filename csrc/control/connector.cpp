#include "control/connector.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "control/probe.h"
#include "transport/tcp/tcp.h"

namespace fastgpu {
namespace {

constexpr TimeNs kDetachLimit = kSecond;
constexpr TimeNs kShortageRetryInterval = 100 * kMillisecond;

// A rank that leaves for a reason links with so many peers to tell them. A peer that needs the rank
// later fails, and passes the reason on.
constexpr int kMostDialled = 16;

constexpr const char* kEnded =
    "its process ended or its connection broke; its output, or that of the launcher, may say why";

}  // namespace

Connector::Connector(Poller& engine, const SymmetricHeap& heap, TimeNs leave_limit)
    : engine_(engine),
      heap_(heap),
      registry_(loop_, leave_limit),
      dialler_(loop_),
      opener_(loop_, dialler_, registry_, engine),
      pending_(loop_, {.state_of = [this](const MemberKey& key) { return registry_.state(key); },
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

bool Connector::probe(const std::string& unix_name, TimeNs deadline) {
  bool is_linked = false;  // then each has mapped the other one's doorbell
  run_and_wait(
      [&] {
        const auto found = links_.find({unix_name, true});
        is_linked = found != links_.end() && found->second.state() == PeerLink::State::kOpen;
      },
      kNever);
  return is_linked || can_map_memory_of(unix_name, deadline);
}

void Connector::expect_connections(std::size_t connections) {
  loop_.post([this, connections] { pending_.expect(connections); });
}

void Connector::expect(const MemberKey& key, std::vector<PeerAddress> peers) {
  run_and_wait([&] { registry_.expect(key, std::move(peers)); }, kNever);
}

void Connector::attach(const MemberKey& key, std::shared_ptr<ConnectionSink> sink,
                       std::vector<PeerAddress> peers) {
  run_and_wait(
      [&] {
        registry_.attach(key, std::move(sink), std::move(peers));
        resume(key);
      },
      kNever);
}

void Connector::open(const PairKey& pair, int lane) {
  loop_.post([=, this] { open_channel(pair, lane); });
}

void Connector::pass_device_segment(const PairKey& pair, uint32_t segment, uint64_t size_bytes,
                                    UniqueFd descriptor) {
  loop_.post([=, this, held = std::make_shared<UniqueFd>(std::move(descriptor))] {
    with_link(pair, [&](PeerLink& link) {
      link.send_device_segment(pair, segment, size_bytes, std::move(*held));
    });
  });
}

void Connector::confirm_device_segment(const PairKey& pair, uint32_t segment) {
  loop_.post([=, this] {
    with_link(pair, [&](PeerLink& link) { link.confirm_device_segment(pair, segment); });
  });
}

void Connector::fail(const MemberKey& key, const Failure& failure) {
  loop_.post([=, this] {
    tell_peers(key, [&](PeerLink& link, const PairKey& pair) { link.send_failure(pair, failure); });
  });
}

void Connector::detach(const MemberKey& key, const std::string& why, bool dials) {
  const TimeNs deadline = now_ns() + kDetachLimit;
  run_and_wait([=, this] { leave(key, why, dials); }, deadline);
  if (dials) await_dials(deadline);
}

// A message that an open link has taken reaches the peer even if this process ends.
void Connector::await_dials(TimeNs deadline) {
  if (std::this_thread::get_id() == thread_.get_id()) return;
  const auto dials = std::make_shared<std::atomic<bool>>(true);
  while (true) {
    const auto look = [this, dials] {
      *dials = std::ranges::any_of(links_, [](const auto& entry) {
        return entry.second.state() == PeerLink::State::kDialling;
      });
    };
    run_and_wait(look, deadline);
    if (!*dials || now_ns() >= deadline) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
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
  const std::string from = describe_peer(link.fd());
  try {
    if (first.kind == ControlKind::kStream) {
      take_stream(std::move(link), first);
    } else {
      take_hello(std::move(link), std::move(first));
    }
  } catch (const CommError& error) {
    log(LogLevel::kWarn, "connection_refused",
        "from=" + in_quotes(from) + " reason=" + in_quotes(error.what()));
  }
}

void Connector::take_hello(Link link, ControlMessage hello) {
  const LinkKey key{hello.failure.message, link.is_unix()};
  const bool is_known = links_.contains(key) || registry_.knows(key);
  if (!is_known || key.process == unix_name()) {
    const std::string why = last_reason_.empty() ? "" : ": " + last_reason_;
    return refuse(
        std::move(link),
        make_failure(ErrorKind::kPeerLost, "has left the groups that it had with this rank" + why));
  }
  PeerLink& found = link_of(key);
  try {
    if (found.accept(std::move(link), std::move(hello))) watch(key);
  } catch (const OutOfResourcesError& error) {
    registry_.give_up(key, error.failure());
  } catch (const CommError&) {
    if (found.state() == PeerLink::State::kIdle) drop(key);
    throw;
  }
}

void Connector::take_stream(Link link, const ControlMessage& message) {
  const PairKey pair = message.pair();
  registry_.check_peer(pair);
  try {
    registry_.channel_arrived(pair, message.lane(),
                              make_tcp_receiver(link.release_stream(), engine_));
  } catch (const OutOfResourcesError& error) {
    registry_.give_up(pair, error.failure());
  }
}

void Connector::open_channel(const PairKey& pair, int lane) {
  const PeerAddress* found = registry_.find(pair);
  if (found == nullptr) return;
  const bool shares_memory = found->shared_memory;
  with_link(pair, [&](PeerLink& link) {
    shares_memory ? link.open_ring(pair, lane) : opener_.open(pair, lane);
  });
}

// Dials the link to the peer, unless it is there. Does nothing if the peer cannot be reached.
void Connector::with_link(const PairKey& pair, const std::function<void(PeerLink& link)>& body) {
  const PeerAddress* found = registry_.find(pair);
  if (found == nullptr) return;
  const PeerAddress address = *found;
  try {
    ensure_link(address);
    const auto link = links_.find(address.link());
    if (link != links_.end()) body(link->second);
  } catch (const CommError& error) {
    registry_.give_up(pair, error.failure());
  }
}

PeerLink& Connector::link_of(const LinkKey& key) {
  const auto share = [this, key](uint32_t segment) {  // called by the engine
    loop_.post([this, key, segment] {
      guard(key, [segment](PeerLink& link) { link.send_segment(segment); });
    });
  };
  return links_.try_emplace(key, key, unix_name(), registry_, engine_, heap_, share).first->second;
}

// Dials the link, unless it is there.
void Connector::ensure_link(const PeerAddress& address) {
  const LinkKey key = address.link();
  PeerLink& link = link_of(key);
  if (link.state() != PeerLink::State::kIdle) return;
  if (key.process == unix_name()) {
    return link.open_to_self([this, key](ControlMessage message) {
      loop_.post([this, key, held = std::make_shared<ControlMessage>(std::move(message))] {
        guard(key, [&](PeerLink& self) { self.handle(std::move(*held)); });
      });
    });
  }
  link.set_dialling();
  dialler_.dial(address, [this, key](UniqueFd socket, const Failure& why) {
    on_dialled(key, std::move(socket), why);
  });
}

void Connector::on_dialled(const LinkKey& key, UniqueFd socket, const Failure& why) {
  const auto found = links_.find(key);
  // A hello of the peer may have come first.
  if (found == links_.end() || found->second.state() != PeerLink::State::kDialling) return;
  try {
    if (!socket) raise(why);
    found->second.connect(std::move(socket));
    watch(key);
  } catch (const CommError& error) {
    registry_.give_up(key, error.failure());
    drop(key);
  }
}

// The loop reports the socket at once if there is something to read already.
void Connector::watch(const LinkKey& key) {
  const auto found = links_.find(key);
  if (found == links_.end() || found->second.fd() < 0) return;
  try {
    found->second.set_watch(loop_.watch(found->second.fd(), [this, key] { on_event(key); }));
  } catch (const OutOfResourcesError& error) {
    registry_.give_up(key, error.failure());
    loop_.call_after(kShortageRetryInterval, [this, key] { watch(key); });
  }
}

void Connector::on_event(const LinkKey& key) {
  guard(key, [&](PeerLink& link) {
    const PeerLink::Next next = link.on_event();
    if (next == PeerLink::Next::kMore) loop_.post([this, key] { on_event(key); });
    if (next == PeerLink::Next::kEnd) end_link(key, kEnded);
  });
}

// Uses the link, if there is one, and ends it if the peer breaks the protocol.
void Connector::guard(const LinkKey& key, const std::function<void(PeerLink& link)>& body) {
  const auto found = links_.find(key);
  if (found == links_.end()) return;
  try {
    body(found->second);
  } catch (const OutOfResourcesError& error) {  // the link is intact: by it the peers are told
    registry_.give_up(key, error.failure());
    loop_.call_after(kShortageRetryInterval, [this, key] { on_event(key); });
  } catch (const CommError& error) {
    log(LogLevel::kInfo, "link_closed", "reason=" + in_quotes(error.what()));
    end_link(key, error.what());
  }
}

void Connector::end_link(const LinkKey& key, const std::string& why) {
  for (const PairKey& pair : registry_.peers_behind(key)) registry_.link_ended(pair, why);
  drop(key);
}

// Keeps a link that holds messages until their communicators are attached or have ended.
void Connector::drop(const LinkKey& key) {
  PeerLink& link = links_.at(key);
  link.close();
  if (!link.holds_any()) links_.erase(key);
}

// The communicator is attached now, or no longer expected.
void Connector::resume(const MemberKey& key) {
  std::vector<LinkKey> links;
  for (const auto& [link_key, link] : links_) {
    if (link.holds_any()) links.push_back(link_key);
  }
  for (const LinkKey& link_key : links) {
    guard(link_key, [&](PeerLink& link) {
      link.resume(key);
      if (link.state() == PeerLink::State::kIdle) end_link(link_key, kEnded);
    });
  }
  pending_.resume(key);
}

void Connector::leave(const MemberKey& key, const std::string& why, bool dials) {
  tell_peers(key, [&](PeerLink& link, const PairKey& pair) { link.send_leave(pair, why); });
  if (dials) {
    last_reason_ = why;
    int dialled = 0;
    for (const PairKey& pair : registry_.peers_of(key)) {
      const PeerAddress* address = registry_.find(pair);
      if (address == nullptr || links_.contains(address->link())) continue;
      if (++dialled > kMostDialled) break;
      with_link(pair, [&](PeerLink& link) { link.send_leave(pair, why); });
    }
  }
  registry_.detach(key);
  for (auto& [link_key, link] : links_) link.forget(key);
  resume(key);
}

void Connector::tell_peers(const MemberKey& key,
                           const std::function<void(PeerLink&, const PairKey&)>& tell) {
  for (const PairKey& pair : registry_.peers_of(key)) {
    const PeerAddress* address = registry_.find(pair);  // lost by now, if its link has ended
    if (address != nullptr) guard(address->link(), [&](PeerLink& link) { tell(link, pair); });
  }
}

}  // namespace fastgpu
