// For tests of shortages: limits of this process, and errors of a child process that has them.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "check.h"

namespace fastgpu::test {

inline std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all))) - 1;  // without its own
}

// Lowers the limit of open files until it is destroyed.
class LimitOfOpenFiles {
 public:
  explicit LimitOfOpenFiles(rlim_t limit) {
    CHECK_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const rlimit lower{.rlim_cur = limit, .rlim_max = before_.rlim_max};
    CHECK_EQ(::setrlimit(RLIMIT_NOFILE, &lower), 0);
  }
  ~LimitOfOpenFiles() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  LimitOfOpenFiles(const LimitOfOpenFiles&) = delete;
  LimitOfOpenFiles& operator=(const LimitOfOpenFiles&) = delete;

 private:
  rlimit before_{};
};

// Uses up the descriptors of this process until it is destroyed.
class NoDescriptors {
 public:
  NoDescriptors() {
    while (UniqueFd one{::open("/dev/null", O_RDONLY | O_CLOEXEC)})
      taken_.push_back(std::move(one));
    CHECK_EQ(errno, EMFILE);
  }
  void give_back_one() { taken_.pop_back(); }

 private:
  const LimitOfOpenFiles limit_{512};
  std::vector<UniqueFd> taken_;
};

// The text of the OutOfResourcesError that `body` raises in a child process, "other: ..." for
// another error, or how else the child ended.
inline std::string shortage_in_child(const std::function<void()>& body) {
  std::array<int, 2> ends{};
  CHECK_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    std::string text = "no error";
    try {
      body();
    } catch (const OutOfResourcesError& error) {
      text = error.what();
    } catch (const std::exception& error) {
      text = std::string("other: ") + error.what();
    }
    ::_exit(::write(writer.get(), text.data(), text.size()) < 0 ? 1 : 0);
  }
  writer.reset();
  std::string text;
  std::array<char, 4096> part{};
  for (ssize_t got = 1; got > 0;) {
    got = ::read(reader.get(), part.data(), part.size());
    if (got > 0) text.append(part.data(), static_cast<std::size_t>(got));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) return "ended by signal " + std::to_string(WTERMSIG(status));
  return text;
}

}  // namespace fastgpu::test
