#include "base/thread.h"

#include <pthread.h>

#include <string>
#include <system_error>
#include <utility>

#include "base/shortage.h"

namespace fastgpu {

std::thread start_thread(const char* name, std::function<void()> body) {
  try {
    return std::thread([name, body = std::move(body)] {
      pthread_setname_np(pthread_self(), name);
      body();
    });
  } catch (const std::system_error& error) {
    raise_shortage(std::string("cannot start the thread ") + name, error.code().value());
  }
}

}  // namespace fastgpu
