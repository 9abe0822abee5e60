// Reading the memory of another process: only of the intended process, and only mapped memory.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/page.h"
#include "check.h"
#include "transport/shm/process_memory.h"

namespace fastgpu::test {
namespace {

TEST(memory_is_read_up_to_its_end) {
  const ProcessMemory memory(::getpid(), ProcessMark::mine());
  CHECK(memory.readable());
  const std::size_t size = 2 * page_bytes();
  auto* pages = static_cast<std::byte*>(
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(pages != MAP_FAILED);
  std::memset(pages, 7, size);
  CHECK(is_readable_by_others(pages, size));
  ::munmap(pages + size / 2, size / 2);
  CHECK(!is_readable_by_others(pages, size));
  std::vector<std::byte> target(size);
  CHECK_EQ(memory.read(target.data(), pages, size / 2), MemoryRead::kDone);
  CHECK_EQ(target[size / 2 - 1], std::byte{7});
  errno = 0;
  CHECK_EQ(memory.read(target.data(), pages, size / 2 + 1), MemoryRead::kRefused);
  CHECK_EQ(errno, EFAULT);
  ::munmap(pages, size / 2);
}

TEST(another_process_with_the_same_id_is_not_read) {
  ProcessMark mark = ProcessMark::mine();
  CHECK(!ProcessMemory(0, mark).readable());
  CHECK(!ProcessMemory(::getpid(), {}).readable());  // a ring without single-copy reads
  ++mark.value;
  const ProcessMemory memory(::getpid(), mark);
  CHECK(!memory.readable());
  std::byte seen{};
  CHECK_EQ(memory.read(&seen, &seen, 1), MemoryRead::kGone);
}

TEST(a_process_that_has_ended_is_not_read) {
  const ProcessMark mark = ProcessMark::mine();  // a child has the same mark at the same address
  static std::byte value{1};
  const pid_t child = ::fork();
  if (child == 0) {
    value = std::byte{2};
    ::raise(SIGSTOP);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, WUNTRACED);
  const ProcessMemory memory(child, mark);
  std::byte seen{};
  const MemoryRead read = memory.read(&seen, &value, 1);
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  CHECK_EQ(read, MemoryRead::kDone);
  CHECK_EQ(seen, std::byte{2});
  CHECK_EQ(memory.read(&seen, &value, 1), MemoryRead::kGone);
}

}  // namespace
}  // namespace fastgpu::test
