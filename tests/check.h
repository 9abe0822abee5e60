// A small test harness for the torch-free layers: TEST registers a case, a CHECK that does not hold
// ends its case, and skip() ends a case that this machine cannot run. `PROGRAM [SUBSTRING]` runs
// the cases whose name contains SUBSTRING. Checks throw, so they belong on the thread that runs the
// case.
#pragma once

#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fastgpu::test {

struct Failed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Skipped : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Register {
  Register(const char* file, const char* name, std::function<void()> body);
};

template <typename Value>
std::string show(const Value& value) {
  if constexpr (requires(std::ostream& out) { out << value; }) {
    std::ostringstream out;
    out << value;
    return out.str();
  } else if constexpr (requires { static_cast<long long>(value); }) {
    return std::to_string(static_cast<long long>(value));
  } else {
    return "(value)";
  }
}

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  throw Failed(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

// Ends the case without a verdict; the reason says what this machine lacks.
[[noreturn]] inline void skip(const std::string& reason) { throw Skipped(reason); }

template <typename Left, typename Right>
void check_equal(const Left& left, const Right& right, const char* text, const char* file,
                 int line) {
  if (!(left == right))
    fail(file, line, std::string(text) + ": " + show(left) + " vs " + show(right));
}

}  // namespace fastgpu::test

#define TEST(name)                                                               \
  static void name();                                                            \
  static const ::fastgpu::test::Register register_##name(__FILE__, #name, name); \
  static void name()
#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) ::fastgpu::test::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)
#define CHECK_EQ(left, right) \
  ::fastgpu::test::check_equal((left), (right), #left " == " #right, __FILE__, __LINE__)
// The statement must throw `type`, with `part` in its message.
#define CHECK_THROWS(statement, type, part)                                                      \
  do {                                                                                           \
    bool thrown_ = false;                                                                        \
    try {                                                                                        \
      statement;                                                                                 \
    } catch (const type& error_) {                                                               \
      thrown_ = true;                                                                            \
      if (std::string(error_.what()).find(part) == std::string::npos)                            \
        ::fastgpu::test::fail(__FILE__, __LINE__, std::string("message: ") + error_.what());     \
    }                                                                                            \
    if (!thrown_) ::fastgpu::test::fail(__FILE__, __LINE__, #statement " did not throw " #type); \
  } while (false)
