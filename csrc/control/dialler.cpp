#include "control/dialler.h"

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace fastgpu {
namespace {

constexpr TimeNs kDialRetryInterval = kMillisecond;

}  // namespace

void Dialler::dial(const PeerAddress& address, Callback callback) {
  const uint64_t id = next_id_++;
  Dial& dial = dials_[id];
  dial.address = address;
  dial.callback = std::move(callback);
  if (address.shared_memory) {
    dial.deadline = now_ns() + retry_limit_;
    try_unix(id);
  } else {
    try_endpoints(id);
  }
}

void Dialler::try_unix(uint64_t id) {
  const std::string name = dials_.at(id).address.unix_name;
  std::string why = "too many connections wait for the unix socket @" + name;
  try {
    UniqueFd socket = dial_unix(name);
    if (socket) return connected(id, std::move(socket));
    if (now_ns() < dials_.at(id).deadline) {
      return loop_.call_after(kDialRetryInterval, [this, id] { try_unix(id); });
    }
  } catch (const OutOfResourcesError& error) {
    return finish(id, {}, error.failure());
  } catch (const CommError& error) {
    why = error.what();
  }
  unreachable(id, why + "; check that its process still runs and is not stopped");
}

// Tries endpoints until a connect is under way or none is left.
void Dialler::try_endpoints(uint64_t id) {
  Dial& dial = dials_.at(id);
  for (; dial.endpoint < dial.address.endpoints.size(); ++dial.endpoint) {
    try {
      dial.socket = dial_tcp(dial.address.endpoints[dial.endpoint]);
      dial.watch = loop_.watch(dial.socket.get(), [this, id] { check_connect(id); });
      return;
    } catch (const OutOfResourcesError& error) {
      return finish(id, {}, error.failure());
    } catch (const CommError& error) {
      add_failure(dial, error.what());
    }
  }
  const std::string failures =
      dial.failures.empty() ? "it published no address for TCP" : dial.failures;
  unreachable(id, failures +
                      "; check that its process still runs, that FASTGPU_INTERFACE names a network "
                      "that both hosts are on, and that no firewall closes the port");
}

void Dialler::check_connect(uint64_t id) {
  Dial& dial = dials_.at(id);
  const int error = dial_result(dial.socket.get());
  if (error == EINPROGRESS) return;
  dial.watch.reset();
  if (error == 0) return connected(id, std::move(dial.socket));
  dial.socket.reset();
  add_failure(dial, to_string(dial.address.endpoints[dial.endpoint]) + " (" +
                        std::generic_category().message(error) + ")");
  ++dial.endpoint;
  try_endpoints(id);
}

void Dialler::add_failure(Dial& dial, const std::string& what) {
  dial.failures += (dial.failures.empty() ? "" : ", ") + what;
}

void Dialler::connected(uint64_t id, UniqueFd socket) { finish(id, std::move(socket), {}); }

void Dialler::unreachable(uint64_t id, const std::string& why) {
  finish(id, {}, make_failure(ErrorKind::kPeerLost, "it cannot be reached: " + why));
}

void Dialler::finish(uint64_t id, UniqueFd socket, const Failure& why) {
  const Callback callback = std::move(dials_.at(id).callback);
  dials_.erase(id);
  callback(std::move(socket), why);
}

}  // namespace fastgpu
