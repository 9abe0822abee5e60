#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <string>
#include <vector>

#include "check.h"
#include "transport/socket/stream.h"

namespace fastgpu {
namespace {

struct StreamEnds {
  std::unique_ptr<Stream> left;
  std::unique_ptr<Stream> right;

  StreamEnds() {
    std::array<int, 2> both{};
    CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()), 0);
    left = make_tcp_stream(UniqueFd(both[0]));
    right = make_tcp_stream(UniqueFd(both[1]));
  }
};

Io write(Stream& stream, std::string text, std::size_t* size) {
  const std::array<iovec, 1> part = {iovec{.iov_base = text.data(), .iov_len = text.size()}};
  return stream.write(part, size);
}

Io read(Stream& stream, std::span<char> target, std::size_t* size) {
  const std::array<iovec, 1> part = {iovec{.iov_base = target.data(), .iov_len = target.size()}};
  return stream.read(part, size);
}

TEST(parts_are_written_and_read_in_order) {
  const StreamEnds ends;
  std::string first = "abc";
  std::string second = "defg";
  const std::array<iovec, 2> from = {iovec{.iov_base = first.data(), .iov_len = 3},
                                     iovec{.iov_base = second.data(), .iov_len = 4}};
  std::size_t size = 0;
  CHECK(ends.left->write(from, &size) == Io::kMoved);
  CHECK_EQ(size, 7U);
  std::string head(2, ' ');
  std::string tail(9, ' ');
  const std::array<iovec, 2> to = {iovec{.iov_base = head.data(), .iov_len = 2},
                                   iovec{.iov_base = tail.data(), .iov_len = 9}};
  CHECK(ends.right->read(to, &size) == Io::kMoved);
  CHECK_EQ(size, 7U);
  CHECK_EQ(head + tail.substr(0, 5), "abcdefg");
}

TEST(an_empty_stream_and_a_full_one_block) {
  const StreamEnds ends;
  std::vector<char> bytes(1 << 16);
  std::size_t size = 0;
  CHECK(read(*ends.right, bytes, &size) == Io::kBlocked);
  const std::string piece(1 << 16, 'x');
  while (write(*ends.left, piece, &size) == Io::kMoved) CHECK(size > 0);
  CHECK(write(*ends.left, piece, &size) == Io::kBlocked);
  while (read(*ends.right, bytes, &size) == Io::kMoved) CHECK(size > 0);
  CHECK(write(*ends.left, piece, &size) == Io::kMoved);
}

TEST(a_closed_stream_is_read_to_its_end) {
  StreamEnds ends;
  std::size_t size = 0;
  CHECK(write(*ends.left, "end", &size) == Io::kMoved);
  ends.left.reset();
  std::array<char, 8> bytes{};
  CHECK(read(*ends.right, bytes, &size) == Io::kMoved);
  CHECK_EQ(std::string(bytes.data(), size), "end");
  CHECK(read(*ends.right, bytes, &size) == Io::kClosed);
  CHECK(write(*ends.right, "more", &size) == Io::kClosed);
}

TEST(shutting_down_closes_both_directions_and_wakes_this_side) {
  const StreamEnds ends;
  ends.left->shut_down();
  pollfd waiting{.fd = ends.left->fd(), .events = POLLIN, .revents = 0};
  CHECK_EQ(::poll(&waiting, 1, 0), 1);
  std::array<char, 8> bytes{};
  std::size_t size = 0;
  CHECK(read(*ends.left, bytes, &size) == Io::kClosed);
  CHECK(write(*ends.left, "x", &size) == Io::kClosed);
  CHECK(read(*ends.right, bytes, &size) == Io::kClosed);
}

}  // namespace
}  // namespace fastgpu
