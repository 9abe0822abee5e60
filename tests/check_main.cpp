#include <chrono>
#include <cstdio>
#include <string_view>
#include <vector>

#include "check.h"

namespace fastgpu::test {
namespace {

struct Case {
  std::string name;
  std::function<void()> body;
};

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

std::string stem(std::string_view file) {
  file.remove_prefix(file.find_last_of('/') + 1);
  return std::string(file.substr(0, file.find('.')));
}

bool passes(const Case& test) {
  const auto start = std::chrono::steady_clock::now();
  std::string error;
  try {
    test.body();
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  std::printf("%s %s (%.0f ms)\n", error.empty() ? "ok  " : "FAIL", test.name.c_str(),
              spent.count());
  if (!error.empty()) std::printf("     %s\n", error.c_str());
  std::fflush(stdout);
  return error.empty();
}

}  // namespace

Register::Register(const char* file, const char* name, std::function<void()> body) {
  cases().push_back({stem(file) + "." + name, std::move(body)});
}

int run(std::string_view filter) {
  int failed = 0;
  int ran = 0;
  for (const Case& test : cases()) {
    if (test.name.find(filter) == std::string::npos) continue;
    ++ran;
    if (!passes(test)) ++failed;
  }
  std::printf("%d passed, %d failed\n", ran - failed, failed);
  return failed == 0 && ran > 0 ? 0 : 1;
}

}  // namespace fastgpu::test

int main(int argc, char** argv) { return fastgpu::test::run(argc > 1 ? argv[1] : ""); }
