// A descriptor is closed once, and one that is this process's only is no child's.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "base/unique_fd.h"
#include "check.h"

namespace fastgpu::test {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

// Whether the other end hears of the end when this process closes `kept`, while a child lives on.
bool ends_with_parent(UniqueFd kept, int other) {
  const pid_t child = ::fork();
  if (child == 0) {
    kept.reset();  // as the parent's objects do at the child's exit
    ::pause();
    ::_exit(0);
  }
  kept.reset();
  pollfd end{.fd = other, .events = POLLIN, .revents = 0};
  const bool ended = ::poll(&end, 1, 200) == 1;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return ended;
}

TEST(a_descriptor_is_closed_with_its_owner) {
  const int fd = ::open("/dev/null", O_RDONLY);
  {
    UniqueFd owner = UniqueFd::of_this_process_only(fd);
    CHECK(is_open(fd));
    UniqueFd next = std::move(owner);
    CHECK(is_open(next.get()));
  }
  CHECK(!is_open(fd));
}

TEST(a_childs_copy_does_not_keep_a_connection_open) {
  std::array<int, 2> pair{};
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()), 0);
  const UniqueFd other(pair[1]);
  CHECK(ends_with_parent(UniqueFd::of_this_process_only(pair[0]), other.get()));
}

// A descriptor number that is used again for something else is inherited as usual.
TEST(a_number_that_is_used_again_is_the_childs_as_well) {
  const int fd = ::open("/dev/null", O_RDONLY);
  UniqueFd::of_this_process_only(fd).reset();
  std::array<int, 2> pipe{};
  CHECK_EQ(::pipe(pipe.data()), 0);
  CHECK_EQ(pipe[0], fd);
  const pid_t child = ::fork();
  if (child == 0) {
    char byte = 0;
    ::_exit(::read(pipe[0], &byte, 1) == 1 ? byte : 1);
  }
  const char seven = 7;
  CHECK_EQ(::write(pipe[1], &seven, 1), 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK_EQ(WEXITSTATUS(status), 7);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

}  // namespace
}  // namespace fastgpu::test
