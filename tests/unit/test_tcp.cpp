// Tests of single bytes on the wire, which the conformance suite does not see. A pair of unix
// stream sockets stands for the connection, as it delivers exactly the bytes that were written.
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <complex>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "transport/tcp/tcp.h"
#include "transport/wait/poller.h"

namespace fastgpu {
namespace {

using Bytes = std::vector<std::byte>;
using Complex = std::complex<double>;

struct Ends {
  Poller poller;
  UniqueFd raw;      // the test's end
  UniqueFd channel;  // the channel's, until it is taken

  Ends() {
    std::array<int, 2> both{};
    CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()), 0);
    raw = UniqueFd(both[0]);
    channel = UniqueFd(both[1]);
  }
  std::unique_ptr<RecvChannel> receiver() {
    return make_tcp_receiver(make_tcp_stream(std::move(channel)), poller);
  }
  std::unique_ptr<SendChannel> sender() {
    return make_tcp_sender(make_tcp_stream(std::move(channel)), poller);
  }

  void put(const Bytes& bytes, std::size_t begin, std::size_t end) const {
    CHECK_EQ(::send(raw.get(), bytes.data() + begin, end - begin, MSG_NOSIGNAL),
             static_cast<ssize_t>(end - begin));
  }
  Bytes take(std::size_t size) const {
    Bytes bytes(size);
    CHECK_EQ(::recv(raw.get(), bytes.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
    return bytes;
  }
};

void append(Bytes& bytes, const void* from, std::size_t size) {
  if (size == 0) return;
  bytes.resize(bytes.size() + size);
  std::memcpy(bytes.data() + bytes.size() - size, from, size);
}

Bytes frame_of(uint32_t ordinal, const void* payload, std::size_t size) {
  const FrameHeader header{.ordinal = ordinal, .size_bytes = size};
  Bytes bytes;
  append(bytes, &header, sizeof(header));
  append(bytes, payload, size);
  return bytes;
}

template <typename Element>
void add(std::byte* target, const std::byte* source, std::size_t count) {
  // complex<double> is aligned to its size here, as the contract of kernels says.
  CHECK_EQ(reinterpret_cast<uintptr_t>(source) % sizeof(Element), 0U);
  auto* sums = reinterpret_cast<Element*>(target);
  const auto* terms = reinterpret_cast<const Element*>(source);
  for (std::size_t i = 0; i < count; ++i) sums[i] += terms[i];
}

template <typename Element>
Incoming reduce_into(std::vector<Element>& sums) {
  return {.target = reinterpret_cast<std::byte*>(sums.data()),
          .size_bytes = sums.size() * sizeof(Element),
          .sink = {.reduce = add<Element>, .element_size = sizeof(Element)}};
}

TEST(the_header_travels_as_wire_md_says) {
  Ends ends;
  const auto sender = ends.sender();
  const std::array<char, 3> payload = {'a', 'b', 'c'};
  Outgoing frame{.header = {.generation = 0x04030201,
                            .ordinal = 0x08070605,
                            .sequence = 0x100f0e0d0c0b0a09,
                            .size_bytes = 3,
                            .key = {0x2019181716151413, 0x2827262524232221}},
                 .payload = reinterpret_cast<const std::byte*>(payload.data())};
  CHECK(sender->try_send(frame) == Io::kMoved);
  CHECK(frame.done);
  const Bytes wire = ends.take(sizeof(FrameHeader) + 3);
  const std::string text(reinterpret_cast<const char*>(wire.data()), wire.size());
  CHECK_EQ(text, std::string("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"
                             "\x03\0\0\0\0\0\0\0\x13\x14\x15\x16\x17\x18\x19\x20"
                             "\x21\x22\x23\x24\x25\x26\x27\x28"
                             "abc",
                             43));
}

int unread_bytes(int socket) {
  int size = -1;
  CHECK_EQ(::ioctl(socket, FIONREAD, &size), 0);
  return size;
}

TEST(many_frames_come_in_one_read) {
  Ends ends;
  const int socket = ends.channel.get();
  const auto receiver = ends.receiver();
  Bytes wire;
  for (uint32_t i = 0; i < 20; ++i) {
    const Bytes one = frame_of(i, &i, sizeof(i));
    append(wire, one.data(), one.size());
  }
  ends.put(wire, 0, wire.size());
  FrameHeader header;
  CHECK(receiver->peek(header) == Io::kMoved);
  CHECK_EQ(unread_bytes(socket), 0);
  ends.raw.reset();
  for (uint32_t i = 0; i < 20; ++i) {
    uint32_t value = 0;
    Incoming incoming{.target = reinterpret_cast<std::byte*>(&value), .size_bytes = 4};
    CHECK(receiver->peek(header) == Io::kMoved);
    CHECK_EQ(header.ordinal, i);
    CHECK(receiver->try_recv(incoming) == Io::kMoved);
    CHECK(incoming.done);
    CHECK_EQ(value, i);
  }
  CHECK(receiver->peek(header) == Io::kClosed);
}

// Two frames, cut at every byte: kernels always get whole, aligned elements.
TEST(elements_come_whole_however_the_stream_is_cut) {
  const std::vector<Complex> terms = {{1, 2}, {3, 4}, {5, 6}};
  const std::array<char, 3> odd = {'x', 'y', 'z'};
  Bytes wire = frame_of(0, odd.data(), odd.size());  // so that the next frame is not aligned
  const Bytes second = frame_of(1, terms.data(), terms.size() * sizeof(Complex));
  append(wire, second.data(), second.size());
  for (std::size_t cut = 0; cut <= wire.size(); ++cut) {
    Ends ends;
    const auto receiver = ends.receiver();
    std::array<char, 3> stored{};
    std::vector<Complex> sums(3, Complex(10, 20));
    Incoming first{.target = reinterpret_cast<std::byte*>(stored.data()), .size_bytes = 3};
    Incoming next = reduce_into(sums);
    const auto look = [&] {
      if (!first.done) CHECK(receiver->try_recv(first) != Io::kClosed);
      if (first.done && !next.done) CHECK(receiver->try_recv(next) != Io::kClosed);
    };
    ends.put(wire, 0, cut);
    look();
    CHECK_EQ(next.received_bytes % sizeof(Complex), 0U);
    ends.put(wire, cut, wire.size());
    look();
    CHECK(first.done);
    CHECK(next.done);
    CHECK(stored == odd);
    CHECK(sums == (std::vector<Complex>{{11, 22}, {13, 24}, {15, 26}}));
  }
}

TEST(a_reduce_that_comes_byte_by_byte_blocks_until_an_element_is_whole) {
  Ends ends;
  const auto receiver = ends.receiver();
  const double term = 0.5;
  const Bytes wire = frame_of(0, &term, sizeof(term));
  std::vector<double> sums = {1};
  Incoming incoming = reduce_into(sums);
  for (std::size_t at = 0; at < wire.size(); ++at) {
    CHECK(receiver->try_recv(incoming) == Io::kBlocked);
    ends.put(wire, at, at + 1);
  }
  CHECK(receiver->try_recv(incoming) == Io::kMoved);
  CHECK(incoming.done);
  CHECK_EQ(sums[0], 1.5);
}

TEST(a_stream_that_ends_within_a_frame_is_closed_after_what_came) {
  Ends ends;
  const auto receiver = ends.receiver();
  const std::string payload(100, 'p');
  const Bytes wire = frame_of(0, payload.data(), payload.size());
  ends.put(wire, 0, sizeof(FrameHeader) + 60);
  ends.raw.reset();
  Bytes target(100);
  Incoming incoming{.target = target.data(), .size_bytes = 100};
  CHECK(receiver->try_recv(incoming) == Io::kMoved);
  CHECK_EQ(incoming.received_bytes, 60U);
  CHECK(receiver->try_recv(incoming) == Io::kClosed);
  CHECK(!incoming.done);
}

TEST(a_stream_that_ends_within_a_header_is_closed) {
  Ends ends;
  const auto receiver = ends.receiver();
  const Bytes wire = frame_of(0, nullptr, 0);
  ends.put(wire, 0, 39);
  FrameHeader header;
  CHECK(receiver->peek(header) == Io::kBlocked);
  ends.raw.reset();
  CHECK(receiver->peek(header) == Io::kClosed);
}

TEST(an_absurd_size_closes_the_channel) {
  Ends ends;
  const auto receiver = ends.receiver();
  FrameHeader header{.size_bytes = kMaxTcpFrameBytes + 1};
  Bytes wire;
  append(wire, &header, sizeof(header));
  const Bytes good = frame_of(1, nullptr, 0);
  append(wire, good.data(), good.size());
  ends.put(wire, 0, wire.size());
  CHECK(receiver->peek(header) == Io::kClosed);
  CHECK(receiver->peek(header) == Io::kClosed);  // the good frame behind it is not believed
  std::byte unused{};
  CHECK_EQ(::recv(ends.raw.get(), &unused, 1, 0), 0);  // and the peer sees the end
}

TEST(a_frame_of_absurd_size_is_not_sent) {
  Ends ends;
  const auto sender = ends.sender();
  Outgoing frame{.header = {.size_bytes = kMaxTcpFrameBytes + 1}};
  CHECK(sender->try_send(frame) == Io::kClosed);
  std::byte unused{};
  CHECK_EQ(::recv(ends.raw.get(), &unused, 1, 0), 0);
}

TEST(a_blocked_sender_sees_that_the_receiver_hung_up) {
  Ends ends;
  const auto sender = ends.sender();
  const Bytes payload(8 << 20);
  Outgoing frame{.header = {.size_bytes = payload.size()}, .payload = payload.data()};
  while (sender->try_send(frame) == Io::kMoved) CHECK(!frame.done);
  CHECK(sender->try_send(frame) == Io::kBlocked);
  CHECK_EQ(::shutdown(ends.raw.get(), SHUT_WR), 0);  // the end of its stream; it reads no more
  CHECK(sender->try_send(frame) == Io::kClosed);
  CHECK(sender->try_send(frame) == Io::kClosed);
}

TEST(news_on_a_socket_ends_a_sleep_and_a_destroyed_channel_makes_none) {
  Ends ends;
  auto receiver = ends.receiver();
  FrameHeader header;
  ends.poller.prepare_sleep();
  ends.poller.sleep(now_ns());  // takes the edge of being writable
  CHECK(receiver->peek(header) == Io::kBlocked);
  const Bytes wire = frame_of(0, nullptr, 0);
  ends.put(wire, 0, wire.size());
  ends.poller.prepare_sleep();
  const TimeNs begin = now_ns();
  ends.poller.sleep(begin + 60 * kSecond);
  CHECK(now_ns() < begin + 30 * kSecond);
  CHECK(receiver->peek(header) == Io::kMoved);
  receiver.reset();
  CHECK_EQ(::send(ends.raw.get(), wire.data(), wire.size(), MSG_NOSIGNAL), -1);
}

TEST(hanging_up_wakes_this_side) {
  Ends ends;
  const auto receiver = ends.receiver();
  ends.poller.prepare_sleep();
  ends.poller.sleep(now_ns());
  receiver->hang_up();
  ends.poller.prepare_sleep();
  const TimeNs begin = now_ns();
  ends.poller.sleep(begin + 60 * kSecond);
  CHECK(now_ns() < begin + 30 * kSecond);
  FrameHeader header;
  CHECK(receiver->peek(header) == Io::kClosed);
}

}  // namespace
}  // namespace fastgpu
