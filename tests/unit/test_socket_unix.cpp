#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "shortages.h"
#include "transport/socket/socket.h"

namespace fastgpu {
namespace {

struct Pair {
  UniqueFd left;
  UniqueFd right;
};

std::string fresh_name() {
  static int count = 0;
  return "fastgpu-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
}

Pair connected() {
  const std::string name = fresh_name();
  const UniqueFd listener = listen_unix(name);
  Pair pair;
  pair.left = dial_unix(name);
  pair.right = accept_connection(listener.get());
  CHECK(static_cast<bool>(pair.right));
  return pair;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string text_of(const Message& message) {
  return {reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size()};
}

TEST(the_last_words_of_a_peer_that_did_not_listen_arrive) {
  Pair pair = connected();
  CHECK(send_message(pair.left.get(), bytes_of("why"), {}));
  CHECK(send_message(pair.right.get(), bytes_of("unread"), {}));
  pair.left.reset();
  Message message;
  CHECK(recv_message(pair.right.get(), message) == Received::kMessage);
  CHECK_EQ(text_of(message), "why");
  CHECK(recv_message(pair.right.get(), message) == Received::kClosed);
}

TEST(messages_keep_their_borders) {
  const Pair pair = connected();
  Message message;
  CHECK(recv_message(pair.right.get(), message) == Received::kNothing);
  CHECK(send_message(pair.left.get(), bytes_of("one"), {}));
  CHECK(send_message(pair.left.get(), bytes_of("second"), {}));
  CHECK(recv_message(pair.right.get(), message) == Received::kMessage);
  CHECK_EQ(text_of(message), "one");
  CHECK(recv_message(pair.right.get(), message) == Received::kMessage);
  CHECK_EQ(text_of(message), "second");
  CHECK(message.descriptors.empty());
}

TEST(descriptors_arrive_working_and_close_on_exec) {
  const Pair pair = connected();
  std::array<int, 2> ends{};
  CHECK_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  std::vector<int> passed(kMaxDescriptors, writer.get());
  CHECK(send_message(pair.left.get(), bytes_of("take these"), passed));
  writer.reset();
  Message message;
  CHECK(recv_message(pair.right.get(), message) == Received::kMessage);
  CHECK_EQ(message.descriptors.size(), kMaxDescriptors);
  for (const UniqueFd& fd : message.descriptors) {
    CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK_EQ(::write(fd.get(), "x", 1), 1);
    char byte = 0;
    CHECK_EQ(::read(reader.get(), &byte, 1), 1);
  }
}

TEST(descriptors_do_not_leak) {
  const std::size_t before = test::open_descriptors();
  {
    const Pair pair = connected();
    const std::array<int, 3> passed = {0, 1, 2};
    Message message;
    for (int round = 0; round < 3; ++round) {  // the second takes the place of the first
      CHECK(send_message(pair.left.get(), bytes_of("m"), passed));
      CHECK(recv_message(pair.right.get(), message) == Received::kMessage);
      CHECK_EQ(message.descriptors.size(), 3U);
      CHECK_EQ(test::open_descriptors(), before + 2 + 3);
    }
    CHECK(send_message(pair.left.get(), bytes_of("never taken"), passed));
  }
  CHECK_EQ(test::open_descriptors(), before);
}

TEST(descriptors_beyond_the_limit_are_refused_and_closed) {
  const Pair pair = connected();
  const std::size_t before = test::open_descriptors();
  const std::vector<int> passed(kMaxDescriptors + 1, 0);
  CHECK_THROWS(send_message(pair.left.get(), bytes_of("m"), passed), InvalidArgumentError,
               "at most 8 descriptors, not 1 and 9");
  // A peer that does not keep to the limit may still send them.
  char byte = 'm';
  iovec part{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE((kMaxDescriptors + 1) * sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(passed.size() * sizeof(int));
  std::memcpy(CMSG_DATA(rights), passed.data(), passed.size() * sizeof(int));
  CHECK_EQ(::sendmsg(pair.left.get(), &header, MSG_NOSIGNAL), 1);
  Message message;
  CHECK_THROWS(recv_message(pair.right.get(), message), PeerLostError, "descriptors");
  message.descriptors.clear();
  CHECK_EQ(test::open_descriptors(), before);
}

TEST(messages_beyond_the_limit_are_refused) {
  const Pair pair = connected();
  const std::string longest(kMaxMessageBytes, 'a');
  CHECK(send_message(pair.left.get(), bytes_of(longest), {}));
  Message message;
  CHECK(recv_message(pair.right.get(), message) == Received::kMessage);
  CHECK_EQ(text_of(message), longest);
  CHECK_THROWS(send_message(pair.left.get(), bytes_of(longest + "a"), {}), InvalidArgumentError,
               "4097");
  CHECK_THROWS(send_message(pair.left.get(), {}, {}), InvalidArgumentError, "1 to 4096 bytes");
  CHECK_EQ(::send(pair.left.get(), (longest + "a").data(), longest.size() + 1, 0), 4097);
  CHECK_THROWS(recv_message(pair.right.get(), message), PeerLostError, "more than 4096");
}

TEST(a_full_socket_blocks_and_opens_again) {
  const Pair pair = connected();
  int sent = 0;
  while (send_message(pair.left.get(), bytes_of("fill"), {})) ++sent;
  CHECK(sent > 0);
  Message message;
  for (int taken = 0; taken < sent; ++taken)
    CHECK(recv_message(pair.right.get(), message) == Received::kMessage);
  CHECK(send_message(pair.left.get(), bytes_of("again"), {}));
}

TEST(a_gone_peer_is_seen_after_its_messages) {
  Pair pair = connected();
  CHECK(send_message(pair.left.get(), bytes_of("last words"), {}));
  pair.left.reset();
  Message message;
  CHECK(recv_message(pair.right.get(), message) == Received::kMessage);
  CHECK_EQ(text_of(message), "last words");
  CHECK(recv_message(pair.right.get(), message) == Received::kClosed);
  CHECK_THROWS(send_message(pair.right.get(), bytes_of("hello?"), {}), PeerLostError,
               "cannot send");
}

TEST(names_are_checked) {
  const std::string name = fresh_name();
  CHECK_THROWS(dial_unix(name), PeerLostError, "@" + name);
  const UniqueFd listener = listen_unix(name);
  CHECK_THROWS(listen_unix(name), RendezvousError, "@" + name);
  CHECK_THROWS(listen_unix(""), InvalidArgumentError, "1 to 107 bytes");
  CHECK_THROWS(dial_unix(std::string(108, 'x')), InvalidArgumentError, "1 to 107 bytes");
  const UniqueFd longest = listen_unix(std::string(100, 'x') + std::to_string(::getpid() % 10000));
  CHECK(static_cast<bool>(longest));
}

}  // namespace
}  // namespace fastgpu
