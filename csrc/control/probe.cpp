#include "control/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/memory_file.h"
#include "base/random.h"
#include "base/shortage.h"
#include "control/link.h"
#include "transport/socket/socket.h"

namespace fastgpu {
namespace {

constexpr std::chrono::milliseconds kProbeRetryInterval{1};

UniqueFd dial_until(const std::string& name, TimeNs deadline) {
  for (;;) {
    UniqueFd socket = dial_unix(name);
    if (socket || now_ns() >= deadline) return socket;
    std::this_thread::sleep_for(kProbeRetryInterval);  // the backlog of the socket is full
  }
}

bool receive_until(Link& link, ControlMessage& answer, TimeNs deadline) {
  for (;;) {
    const Received received = link.receive(answer);
    if (received == Received::kMessage) return true;
    const TimeNs left = deadline - now_ns();
    if (received == Received::kClosed || left <= 0) return false;
    pollfd waiting{.fd = link.fd(), .events = POLLIN, .revents = 0};
    ::poll(&waiting, 1, static_cast<int>(left / kMillisecond) + 1);
  }
}

// The word is read with pread: a peer could shrink the memory, and then reading the mapping would
// kill this process with SIGBUS. Only memory has seals, so pread cannot wait for a device.
bool holds_word(const UniqueFd& memory, uint32_t expected) {
  if (::fcntl(memory.get(), F_GET_SEALS) < 0) return false;
  void* mapping = ::mmap(nullptr, sizeof(expected), PROT_READ, MAP_SHARED, memory.get(), 0);
  if (mapping == MAP_FAILED && is_shortage(errno)) {
    raise_shortage("cannot map memory of a peer", errno);
  }
  if (mapping == MAP_FAILED) return false;
  ::munmap(mapping, sizeof(expected));
  uint32_t word = 0;
  return ::pread(memory.get(), &word, sizeof(word), 0) == sizeof(word) && word == expected;
}

}  // namespace

bool can_map_memory_of(const std::string& unix_name, TimeNs deadline) {
  try {
    UniqueFd socket = dial_until(unix_name, deadline);
    if (!socket) return false;
    Link link(std::move(socket));
    ControlMessage question;
    question.kind = ControlKind::kProbe;
    link.send(std::move(question));
    ControlMessage answer;
    if (!receive_until(link, answer, deadline)) return false;
    if (answer.failure.kind == ErrorKind::kOutOfResources) {
      raise(ErrorKind::kOutOfResources,
            "the process at the unix socket @" + unix_name + " " + answer.failure.message);
    }
    return answer.descriptors.size() == 1 && holds_word(answer.descriptors[0], answer.number);
  } catch (const OutOfResourcesError&) {  // of either process: TCP would only hide it
    throw;
  } catch (const CommError&) {  // no process listens there, or it is of another program
    return false;
  }
}

ControlMessage make_probe_answer() {
  const auto word = static_cast<uint32_t>(random_u64());
  UniqueFd memory = make_memory_file("fastgpu-probe", sizeof(word));
  if (::write(memory.get(), &word, sizeof(word)) != static_cast<ssize_t>(sizeof(word))) {
    raise_system(ErrorKind::kPeerLost, "cannot answer a probe", errno);
  }
  ControlMessage answer;
  answer.kind = ControlKind::kProbe;
  answer.number = word;
  answer.descriptors.push_back(std::move(memory));
  return answer;
}

}  // namespace fastgpu
