#include "transport/wait/doorbell.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/error.h"
#include "transport/wait/fence.h"

namespace fastgpu {
namespace {

constexpr std::size_t kFileBytes = 4096;  // of the page (docs/wire.md)

}  // namespace

Doorbell Doorbell::create() {
  UniqueFd page_fd(::memfd_create("fastgpu-doorbell", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!page_fd || ::ftruncate(page_fd.get(), kFileBytes) != 0 ||
      ::fcntl(page_fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    raise_system(ErrorKind::kRendezvous, "cannot make a doorbell's page", errno);
  }
  UniqueFd event_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd) raise_system(ErrorKind::kRendezvous, "cannot make a doorbell's eventfd", errno);
  return {std::move(page_fd), std::move(event_fd)};
}

Doorbell Doorbell::attach(UniqueFd page_fd, UniqueFd event_fd) {
  struct stat status{};
  const int seals = ::fcntl(page_fd.get(), F_GET_SEALS);
  if (::fstat(page_fd.get(), &status) != 0 || status.st_size != kFileBytes || seals < 0 ||
      (seals & F_SEAL_SHRINK) == 0) {
    raise(ErrorKind::kRendezvous, "what a peer passed as its doorbell is not one");
  }
  // A descriptor that blocks, and is full, would stop whoever rings.
  if (::fcntl(event_fd.get(), F_SETFL, O_NONBLOCK) != 0) {
    raise_system(ErrorKind::kRendezvous, "cannot use what a peer passed as its doorbell", errno);
  }
  return {std::move(page_fd), std::move(event_fd)};
}

Doorbell::Doorbell(UniqueFd page_fd, UniqueFd event_fd)
    : page_fd_(std::move(page_fd)), event_fd_(std::move(event_fd)) {
  void* page = ::mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd_.get(), 0);
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
  // Of several ringers one pays for the system call. (Killed just here, it wakes nobody; its death
  // wakes them all.)
  if (page_->sleeping.exchange(0, std::memory_order_relaxed) == 0) return;
  const uint64_t one = 1;
  // Fails only when the counter is full, and then the owner is awake already.
  [[maybe_unused]] const ssize_t written = ::write(event_fd_.get(), &one, sizeof one);
}

void Doorbell::prepare_sleep() noexcept {
  page_->sleeping.store(1, std::memory_order_relaxed);
  fence(std::memory_order_seq_cst);
}

void Doorbell::finish_sleep() noexcept {
  page_->sleeping.store(0, std::memory_order_relaxed);
  // Always, for a ringer's write may come late, after a sleep that it was not meant for.
  uint64_t rings = 0;
  [[maybe_unused]] const ssize_t got = ::read(event_fd_.get(), &rings, sizeof rings);
}

}  // namespace fastgpu
