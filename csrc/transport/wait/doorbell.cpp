#include "transport/wait/doorbell.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/memory_file.h"
#include "transport/wait/fence.h"

namespace fastgpu {
namespace {

constexpr std::size_t kFileBytes = 4096;  // size of the page (docs/wire.md)

// Page memory that a peer could shrink would kill this process with SIGBUS.
bool is_page(int fd) {
  struct stat status{};
  const int seals = ::fcntl(fd, F_GET_SEALS);
  return ::fstat(fd, &status) == 0 && status.st_size == kFileBytes && seals >= 0 &&
         (seals & F_SEAL_SHRINK) != 0;
}

// A write to another kind of descriptor might raise SIGPIPE.
bool is_eventfd(int fd) {
  constexpr std::string_view kName = "anon_inode:[eventfd]";
  std::array<char, 64> name{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = ::readlink(link.c_str(), name.data(), name.size());
  return size > 0 && std::string_view(name.data(), static_cast<std::size_t>(size)) == kName;
}

}  // namespace

Doorbell Doorbell::create() {
  UniqueFd page_fd = make_memory_file("fastgpu-doorbell", kFileBytes);
  UniqueFd event_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd)
    raise_system(ErrorKind::kRendezvous, "cannot create the eventfd of a doorbell", errno);
  Doorbell made(page_fd, std::move(event_fd));
  made.page_fd_ = std::move(page_fd);
  return made;
}

Doorbell Doorbell::attach(UniqueFd page_fd, UniqueFd event_fd) {
  if (!is_page(page_fd.get()) || !is_eventfd(event_fd.get())) {
    raise(ErrorKind::kRendezvous,
          "the doorbell that a peer passed is not one; check that every rank runs the same version "
          "of fastgpu_comm");
  }
  // A write to a blocking eventfd waits while its counter is full.
  if (::fcntl(event_fd.get(), F_SETFL, O_NONBLOCK) != 0) {
    raise_system(ErrorKind::kRendezvous, "cannot use the doorbell that a peer passed", errno);
  }
  return {page_fd, std::move(event_fd)};
}

Doorbell::Doorbell(const UniqueFd& page_fd, UniqueFd event_fd) : event_fd_(std::move(event_fd)) {
  void* page = ::mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd.get(), 0);
  if (page == MAP_FAILED) raise_system(ErrorKind::kRendezvous, "cannot map a doorbell", errno);
  page_ = static_cast<Page*>(page);
}

Doorbell::Doorbell(Doorbell&& other) noexcept
    : page_fd_(std::move(other.page_fd_)),
      event_fd_(std::move(other.event_fd_)),
      page_(std::exchange(other.page_, nullptr)) {}

Doorbell& Doorbell::operator=(Doorbell&& other) noexcept {
  if (this != &other) {
    unmap();
    page_fd_ = std::move(other.page_fd_);
    event_fd_ = std::move(other.event_fd_);
    page_ = std::exchange(other.page_, nullptr);
  }
  return *this;
}

Doorbell::~Doorbell() { unmap(); }

void Doorbell::unmap() noexcept {
  if (page_ != nullptr) ::munmap(page_, kFileBytes);
  page_ = nullptr;
}

void Doorbell::ring() noexcept {
  fence(std::memory_order_seq_cst);
  if (page_->sleeping.load(std::memory_order_relaxed) == 0) return;
  // One of several ringers makes the system call. If it is killed at this point, the end of its
  // control link wakes the owner instead.
  if (page_->sleeping.exchange(0, std::memory_order_relaxed) == 0) return;
  const uint64_t one = 1;
  // Fails only if the counter is full; then the owner is awake.
  [[maybe_unused]] const ssize_t written = ::write(event_fd_.get(), &one, sizeof one);
}

void Doorbell::prepare_sleep() noexcept {
  page_->sleeping.store(1, std::memory_order_relaxed);
  fence(std::memory_order_seq_cst);
}

void Doorbell::finish_sleep() noexcept {
  page_->sleeping.store(0, std::memory_order_relaxed);
  // Also if nothing rang in time: a ringer may have written after the sleep had ended.
  uint64_t rings = 0;
  [[maybe_unused]] const ssize_t got = ::read(event_fd_.get(), &rings, sizeof rings);
}

}  // namespace fastgpu
