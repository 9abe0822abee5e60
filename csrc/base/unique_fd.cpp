#include "base/unique_fd.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace fastgpu {
namespace {

constexpr std::size_t kBits = 64;
constexpr std::size_t kMostFds = 1 << 16;  // children inherit descriptors above this number

// One bit per descriptor: set if children must not inherit it.
std::array<std::atomic<uint64_t>, kMostFds / kBits> not_inherited{};

std::atomic<uint64_t>& word_of(int fd) {
  return not_inherited[static_cast<std::size_t>(fd) / kBits];
}
uint64_t bit_of(int fd) { return uint64_t{1} << (static_cast<std::size_t>(fd) % kBits); }
bool has_bit(int fd) { return fd >= 0 && static_cast<std::size_t>(fd) < kMostFds; }

// Runs in a forked child, so it may only call async-signal-safe functions. The child also has
// copies of the UniqueFd objects, which will close these numbers. Therefore the numbers stay in
// use, as /dev/null.
void close_in_child() {
  const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (std::size_t word = 0; word < not_inherited.size(); ++word) {
    for (uint64_t bits = not_inherited[word].exchange(0); bits != 0; bits &= bits - 1) {
      const auto fd =
          static_cast<int>(word * kBits + static_cast<std::size_t>(std::countr_zero(bits)));
      if (nowhere < 0 || ::dup3(nowhere, fd, O_CLOEXEC) < 0) ::close(fd);
    }
  }
  if (nowhere >= 0) ::close(nowhere);
}

}  // namespace

UniqueFd UniqueFd::of_this_process_only(int fd) noexcept {
  static const int registered = ::pthread_atfork(nullptr, nullptr, close_in_child);
  static_cast<void>(registered);
  if (has_bit(fd)) word_of(fd).fetch_or(bit_of(fd));
  return UniqueFd(fd);
}

void UniqueFd::reset(int fd) noexcept {
  if (fd_ >= 0) {
    if (has_bit(fd_)) word_of(fd_).fetch_and(~bit_of(fd_));
    ::close(fd_);
  }
  fd_ = fd;
}

UniqueFd duplicate(int fd, const std::string& what) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) raise_system(ErrorKind::kRendezvous, "cannot pass " + what + " to a peer", errno);
  return copy;
}

}  // namespace fastgpu
