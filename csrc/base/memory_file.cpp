#include "base/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/error.h"

namespace fastgpu {
namespace {

// The kernel would send SIGXFSZ, which ends a process that does not ignore it.
bool exceeds_file_limit(std::size_t size_bytes) noexcept {
  rlimit limit{};
  return ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size_bytes;
}

}  // namespace

UniqueFd make_memory_file(const char* name, std::size_t size_bytes) {
  const auto fail = [&](int error_number) {
    raise_system(
        ErrorKind::kRendezvous,
        "cannot make " + std::to_string(size_bytes) + " bytes of shared memory (" + name + ")",
        error_number);
  };
  if (exceeds_file_limit(size_bytes)) fail(EFBIG);
  UniqueFd file(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file || ::ftruncate(file.get(), static_cast<off_t>(size_bytes)) != 0 ||
      ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    fail(errno);
  }
  return file;
}

}  // namespace fastgpu
