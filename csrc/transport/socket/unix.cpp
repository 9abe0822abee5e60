#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "base/shortage.h"
#include "transport/socket/address.h"
#include "transport/socket/socket.h"

namespace fastgpu {
namespace {

constexpr int kType = SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC;

union Control {  // aligned as the kernel requires
  cmsghdr alignment;
  std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> bytes;
};

SocketAddress abstract_address(const std::string& name) {
  SocketAddress address;
  auto* local = reinterpret_cast<sockaddr_un*>(&address.storage);
  if (name.empty() || name.size() + 1 > sizeof(local->sun_path))
    raise(ErrorKind::kInvalidArgument, "the unix socket name '" + name + "' must have 1 to " +
                                           std::to_string(sizeof(local->sun_path) - 1) + " bytes");
  local->sun_family = AF_UNIX;
  std::memcpy(local->sun_path + 1, name.data(), name.size());  // the leading NUL: no file
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

// Takes ownership of the descriptors first, so that they are closed if the message is refused.
std::vector<UniqueFd> take_descriptors(msghdr& header) {
  std::vector<UniqueFd> taken;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    std::array<int, kMaxDescriptors> fds{};
    std::memcpy(fds.data(), CMSG_DATA(part), count * sizeof(int));
    for (std::size_t i = 0; i < count; ++i) taken.emplace_back(fds[i]);
  }
  return taken;
}

ucred credentials_of(int socket) noexcept {
  ucred peer{.pid = 0, .uid = static_cast<uid_t>(-1), .gid = static_cast<gid_t>(-1)};
  socklen_t size = sizeof peer;
  ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size);
  return peer;
}

}  // namespace

pid_t process_behind(int socket) noexcept { return credentials_of(socket).pid; }

void check_user(int socket, uid_t user) {
  const uid_t peer = credentials_of(socket).uid;
  if (peer == user) return;
  const std::string why = "a process of user " + std::to_string(peer) +
                          " is at the other end of a unix socket, and only user " +
                          std::to_string(user) + " may be; run all ranks as one user";
  log(LogLevel::kWarn, "other_user", "reason=" + in_quotes(why));
  raise(ErrorKind::kAuthentication, why);
}

UniqueFd listen_unix(const std::string& name) {
  const SocketAddress address = abstract_address(name);
  UniqueFd socket = UniqueFd::of_this_process_only(::socket(AF_UNIX, kType, 0));
  if (!socket || ::bind(socket.get(), address.get(), address.size) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0)
    raise_system(ErrorKind::kRendezvous, "cannot listen on the unix socket @" + name, errno);
  return socket;
}

UniqueFd dial_unix(const std::string& name) { return dial_unix(name, ::geteuid()); }

UniqueFd dial_unix(const std::string& name, uid_t user) {
  const SocketAddress address = abstract_address(name);
  UniqueFd socket = UniqueFd::of_this_process_only(::socket(AF_UNIX, kType, 0));
  if (!socket) raise_system(ErrorKind::kPeerLost, "cannot open a socket", errno);
  while (::connect(socket.get(), address.get(), address.size) != 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return {};
    raise_system(ErrorKind::kPeerLost, "cannot connect to the unix socket @" + name, errno);
  }
  check_user(socket.get(), user);
  return socket;
}

bool send_message(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors) {
  if (bytes.empty() || bytes.size() > kMaxMessageBytes || descriptors.size() > kMaxDescriptors)
    raise(ErrorKind::kInvalidArgument, "a message has 1 to " + std::to_string(kMaxMessageBytes) +
                                           " bytes and at most " + std::to_string(kMaxDescriptors) +
                                           " descriptors, not " + std::to_string(bytes.size()) +
                                           " and " + std::to_string(descriptors.size()));
  iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Control control{};
  if (!descriptors.empty()) {
    header.msg_control = control.bytes.data();
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  for (;;) {
    if (::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return true;
    switch (errno) {
      case EINTR:
        continue;
      case EAGAIN:
      case ETOOMANYREFS:  // too many descriptors are on their way; the peer takes them soon
        return false;
      default:
        raise_system(ErrorKind::kPeerLost, "cannot send a message to a rank of this host", errno);
    }
  }
}

Received recv_message(int socket, Message& message) {
  std::array<std::byte, kMaxMessageBytes> bytes;
  iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
  Control control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes.data();
  header.msg_controllen = control.bytes.size();
  // If a peer closes without reading all our messages, the kernel reports that once (ECONNRESET),
  // before the last messages of the peer.
  ssize_t size = 0;
  do {
    size = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (size < 0 && (errno == EINTR || errno == ECONNRESET));
  if (size < 0) return errno == EAGAIN ? Received::kNothing : Received::kClosed;
  message.descriptors = take_descriptors(header);
  if (size == 0) return Received::kClosed;  // no message is empty
  if ((header.msg_flags & MSG_TRUNC) != 0)
    raise(ErrorKind::kPeerLost, "a rank of this host sent a message of more than " +
                                    std::to_string(kMaxMessageBytes) +
                                    " bytes; it may run another version of fastgpu_comm");
  if ((header.msg_flags & MSG_CTRUNC) != 0) {
    if (message.descriptors.size() >= kMaxDescriptors)
      raise(ErrorKind::kPeerLost, "a rank of this host sent more than " +
                                      std::to_string(kMaxDescriptors) +
                                      " descriptors at once; it may run another version of "
                                      "fastgpu_comm");
    raise_shortage("cannot take the descriptors that a rank of this host sent", EMFILE);
  }
  message.bytes.assign(bytes.begin(), bytes.begin() + size);
  return Received::kMessage;
}

}  // namespace fastgpu
