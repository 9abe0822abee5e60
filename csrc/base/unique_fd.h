// Owns one file descriptor.
// Thread safety: one thread at a time per object.
#pragma once

#include <string>
#include <utility>

namespace fastgpu {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  // A descriptor that a forked child does not inherit: in the child it refers to /dev/null. A
  // connection that the child kept open would outlive the parent, and peers would take the parent
  // for alive. (O_CLOEXEC covers exec.)
  static UniqueFd of_this_process_only(int fd) noexcept;
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  void reset(int fd = -1) noexcept;

 private:
  int fd_ = -1;
};

// A second descriptor of the same file, to be passed to a peer. Raises OutOfResourcesError; `what`
// names the file.
UniqueFd duplicate(int fd, const std::string& what);

}  // namespace fastgpu
