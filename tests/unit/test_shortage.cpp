// A shortage of this process raises OutOfResourcesError, which names the resource, the limit and
// the remedy, wherever it is met.
#include <sys/mman.h>

#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/memory_file.h"
#include "base/shortage.h"
#include "base/thread.h"
#include "check.h"
#include "comm/runtime.h"
#include "control/connector.h"
#include "control/probe.h"
#include "engine/engine.h"
#include "shortages.h"
#include "transport/socket/socket.h"

namespace fastgpu::test {
namespace {

void lower(__rlimit_resource resource, rlim_t limit) {
  rlimit both{};
  CHECK_EQ(::getrlimit(resource, &both), 0);
  both.rlim_cur = limit;
  CHECK_EQ(::setrlimit(resource, &both), 0);
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

struct Try {
  const char* name;
  std::function<void()> run;
};

void check_tries(const std::vector<Try>& tries, __rlimit_resource resource, rlim_t limit,
                 const char* happened, const char* advice) {
  for (const Try& each : tries) {
    const std::string text = shortage_in_child([&] {
      lower(resource, limit);
      each.run();
    });
    if (!text.starts_with(happened) || !holds(text, advice)) {
      throw Failed(std::string(each.name) + ": " + text);
    }
  }
}

TEST(a_process_without_descriptors_says_so) {
  const UniqueFd listener = listen_unix("fastgpu-shortage-" + std::to_string(::getpid()));
  uint16_t port = 0;
  check_tries({{"poller", [] { const Poller poller; }},
               {"doorbell", [] { Doorbell::create(); }},
               {"event loop", [] { const EventLoop loop; }},
               {"engine", [] { const Engine engine; }},
               {"ring", [] { create_shm_ring({}); }},
               {"symmetric memory", [] { SymmetricHeap().allocate(1); }},
               {"duplicate", [] { duplicate(0, "a file"); }},
               {"probe", [] { make_probe_answer(); }},
               {"prober", [] { can_map_memory_of("fastgpu-nobody", now_ns() + kSecond); }},
               {"listen on unix", [] { listen_unix("fastgpu-shortage"); }},
               {"listen on TCP", [&] { listen_tcp("127.0.0.1", {}, &port); }},
               {"dial unix", [] { dial_unix("fastgpu-nobody"); }},
               {"dial TCP", [] { dial_tcp({"127.0.0.1", 1}); }},
               {"route", [] { address_towards("127.0.0.1", 1); }},
               {"interfaces", [] { interface_addresses(); }}},
              RLIMIT_NOFILE, 1, "ran out of file descriptors: ",
              "The process may have 1 of them; raise the limit before the start, for example with "
              "\"ulimit -n");
}

// The limit grows by one per turn, so that each descriptor of a runtime is once the missing one.
TEST(a_runtime_short_of_any_descriptor_says_so) {
  bool enough = false;
  for (rlim_t limit = 0; !enough; ++limit) {
    const std::string text = shortage_in_child([&] {
      lower(RLIMIT_NOFILE, limit);
      Runtime runtime;
      runtime.start();
      runtime.connector().listen("127.0.0.1", {});
    });
    enough = text == "no error";
    if (!enough && !text.starts_with("ran out of file descriptors: ")) {
      throw Failed(std::to_string(limit) + " descriptors: " + text);
    }
  }
}

// SIGXFSZ must not end the process.
TEST(a_process_whose_files_may_not_grow_says_so) {
  check_tries({{"doorbell", [] { Doorbell::create(); }},
               {"ring", [] { create_shm_ring({}); }},
               {"symmetric memory", [] { SymmetricHeap().allocate(1); }}},
              RLIMIT_FSIZE, 1024, "reached the limit of file sizes: ",
              "may have 1024 bytes; raise the limit before the start with \"ulimit -f unlimited\"");
}

TEST(a_process_without_memory_says_so) {
  std::ifstream statm("/proc/self/statm");
  rlim_t pages = 0;
  statm >> pages;
  check_tries({{"symmetric memory", [] { SymmetricHeap().allocate(std::size_t{1} << 40); }}},
              RLIMIT_AS, pages * 4096 + (rlim_t{8} << 20), "ran out of memory: ", "ulimit -v");
}

TEST(a_process_that_may_not_start_threads_says_so) {
  const std::string text = shortage_in_child([] {
    if (::geteuid() == 0) CHECK_EQ(::setuid(65534), 0);  // root has no such limit
    lower(RLIMIT_NPROC, 0);
    start_thread("test", [] {}).join();
  });
  CHECK(text.starts_with("ran out of threads: cannot start the thread test: "));
  CHECK(holds(text, "The user may have 0 processes and threads") && holds(text, "ulimit -u"));
}

TEST(limits_of_the_machine_are_named) {
  for (const auto& [error, words] : std::vector<std::pair<int, const char*>>{
           {ENFILE, "fs.file-max"}, {ENOSPC, "max_user_watches"}, {ENOMEM, "max_map_count"}}) {
    CHECK(is_shortage(error));
    CHECK_THROWS(raise_system(ErrorKind::kPeerLost, "cannot x", error), OutOfResourcesError, words);
  }
  CHECK(!is_shortage(ECONNREFUSED) && !is_shortage(EAGAIN) && !is_shortage(0));
}

TEST(the_limit_of_open_files_is_raised_to_the_hard_one) {
  const std::string text = shortage_in_child([] {
    const LimitOfOpenFiles low(64);
    raise_file_limit();
    rlimit limit{};
    CHECK_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK(limit.rlim_cur == limit.rlim_max && limit.rlim_cur > 64);
  });
  CHECK_EQ(text, "no error");
}

}  // namespace
}  // namespace fastgpu::test
