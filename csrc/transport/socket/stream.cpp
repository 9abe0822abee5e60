#include "transport/socket/stream.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace fastgpu {
namespace {

class TcpStream final : public Stream {
 public:
  explicit TcpStream(UniqueFd socket) : socket_(std::move(socket)) {
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }

  int fd() const noexcept override { return socket_.get(); }

  Io read(std::span<const iovec> parts, std::size_t* size) noexcept override {
    for (;;) {
      const ssize_t got = ::readv(socket_.get(), parts.data(), static_cast<int>(parts.size()));
      if (got > 0) {
        *size = static_cast<std::size_t>(got);
        return Io::kMoved;
      }
      if (got < 0 && errno == EINTR) continue;
      return got < 0 && errno == EAGAIN ? Io::kBlocked : Io::kClosed;
    }
  }

  Io write(std::span<const iovec> parts, std::size_t* size) noexcept override {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(parts.data());
    message.msg_iovlen = parts.size();
    for (;;) {
      const ssize_t put = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (put >= 0) {
        *size = static_cast<std::size_t>(put);
        return Io::kMoved;
      }
      if (errno == EINTR) continue;
      return errno == EAGAIN ? Io::kBlocked : Io::kClosed;
    }
  }

  void shut_down() noexcept override { ::shutdown(socket_.get(), SHUT_RDWR); }

 private:
  UniqueFd socket_;
};

}  // namespace

std::unique_ptr<Stream> make_tcp_stream(UniqueFd socket) {
  return std::make_unique<TcpStream>(std::move(socket));
}

}  // namespace fastgpu
