#include <array>
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

enum class Verdict { kPassed, kFailed, kSkipped };

Verdict run_case(const Case& test, std::string& failures) {
  const auto start = std::chrono::steady_clock::now();
  Verdict verdict = Verdict::kPassed;
  std::string why;
  try {
    test.body();
  } catch (const Skipped& skipped) {
    verdict = Verdict::kSkipped;
    why = skipped.what();
  } catch (const std::exception& error) {
    verdict = Verdict::kFailed;
    why = error.what();
  }
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  constexpr std::array kWords = {"ok  ", "FAIL", "skip"};
  std::printf("%s %s (%.0f ms)\n", kWords[static_cast<std::size_t>(verdict)], test.name.c_str(),
              spent.count());
  if (!why.empty()) std::printf("     %s\n", why.c_str());
  if (verdict == Verdict::kFailed) failures += "FAIL " + test.name + "\n     " + why + "\n";
  std::fflush(stdout);
  return verdict;
}

}  // namespace

Register::Register(const char* file, const char* name, std::function<void()> body) {
  cases().push_back({stem(file) + "." + name, std::move(body)});
}

// Failures come once more at the end, where they are seen when the output is cut.
int run(std::string_view filter) {
  std::array<int, 3> counts{};  // by verdict
  int ran = 0;
  std::string failures;
  for (const Case& test : cases()) {
    if (test.name.find(filter) == std::string::npos) continue;
    ++ran;
    ++counts[static_cast<std::size_t>(run_case(test, failures))];
  }
  std::printf("%s%d passed, %d failed, %d skipped\n", failures.c_str(), counts[0], counts[1],
              counts[2]);
  return counts[1] == 0 && ran > 0 ? 0 : 1;
}

}  // namespace fastgpu::test

int main(int argc, char** argv) { return fastgpu::test::run(argc > 1 ? argv[1] : ""); }
