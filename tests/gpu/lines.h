// What the program prints: one line for each check or figure, as soon as it is known. Fields are
// separated by tabs; tools/gpu_check.py reads them.
//
//   ok    what  detail                         FAIL  what  found and expected
//   rate  what  figure  share  target  met or missed
//
// Threading: one thread.
#pragma once

#include <string>

namespace fastgpu::test {

class Lines {
 public:
  void passed(const std::string& what, const std::string& detail);
  void failed(const std::string& what, const std::string& detail);
  // `target` and `share` may be empty: then nothing is met or missed.
  struct Rate {
    std::string what;
    std::string figure;
    std::string share;  // of the copy
    std::string target;
    bool met = false;
  };
  void rate(const Rate& rate);
  bool all_passed() const { return failures_ == 0; }

 private:
  int failures_ = 0;
};

// Cases of one kind: a line for each wrong one, up to a limit, and one for all.
class CaseGroup {
 public:
  CaseGroup(Lines& lines, std::string what) : lines_(lines), what_(std::move(what)) {}
  // `wrong` is "" if the case is right.
  void add(const std::string& wrong);
  // Once, at the end.
  void finish();

 private:
  static constexpr int kShown = 5;
  Lines& lines_;
  std::string what_;
  int cases_ = 0;
  int wrong_ = 0;
};

}  // namespace fastgpu::test
