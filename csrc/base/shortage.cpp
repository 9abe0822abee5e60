#include "base/shortage.h"

#include <sys/resource.h>

#include <cerrno>
#include <fstream>
#include <system_error>

#include "base/error.h"
#include "base/log.h"

namespace fastgpu {
namespace {

std::string text_of(rlim_t limit) {
  return limit == RLIM_INFINITY ? "unlimited" : std::to_string(limit);
}

template <typename Resource>
std::string limit_of(Resource resource) {
  rlimit limit{};
  return ::getrlimit(resource, &limit) == 0 ? text_of(limit.rlim_cur) : "unknown";
}

// Reading takes a descriptor, and there may be none.
std::string setting(const std::string& name) {
  std::ifstream file("/proc/sys/" + name);
  std::string value;
  return std::getline(file, value) ? value : "unknown";
}

struct Shortage {
  std::string happened;
  std::string advice;  // the limit, and how to raise it
};

Shortage shortage_of(int error_number) {
  switch (error_number) {
    case EMFILE:
      return {
          "ran out of file descriptors",
          "The process may have " + limit_of(RLIMIT_NOFILE) +
              " of them; raise the limit before the start, for example with \"ulimit -n 65536\""};
    case ENFILE:
      return {"ran out of file descriptors",
              "The machine may have " + setting("fs/file-max") +
                  " of them; raise the limit, for example with \"sysctl fs.file-max=10000000\""};
    case EFBIG:
      return {"reached the limit of file sizes",
              "A file, also one of shared memory, may have " + limit_of(RLIMIT_FSIZE) +
                  " bytes; raise the limit before the start with \"ulimit -f unlimited\""};
    case ENOSPC:
      return {"ran out of space",
              "The user may watch " + setting("fs/epoll/max_user_watches") +
                  " descriptors; raise that limit (sysctl fs.epoll.max_user_watches), or free "
                  "shared memory (df /dev/shm)"};
    case EAGAIN:
      return {"ran out of threads",
              "The user may have " + limit_of(RLIMIT_NPROC) +
                  " processes and threads; raise the limit before the start, for example with "
                  "\"ulimit -u 65536\", and that of the container (pids.max)"};
    default:
      return {"ran out of memory",
              "The process may have " + limit_of(RLIMIT_AS) + " bytes (ulimit -v) in " +
                  setting("vm/max_map_count") +
                  " mappings (sysctl vm.max_map_count), and a container less; raise the limit "
                  "that is reached, or use less memory"};
  }
}

}  // namespace

bool is_shortage(int error_number) noexcept {
  switch (error_number) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case ENOSPC:
    case EFBIG:
      return true;
    default:
      return false;
  }
}

void raise_shortage(const std::string& what, int error_number) {
  const Shortage shortage = shortage_of(error_number);
  raise(ErrorKind::kOutOfResources, shortage.happened + ": " + what + ": " +
                                        std::generic_category().message(error_number) + ". " +
                                        shortage.advice);
}

void raise_file_limit() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  log(LogLevel::kDebug, "file_limit_raised",
      "from=" + text_of(before) + " to=" + text_of(limit.rlim_max));
}

}  // namespace fastgpu
