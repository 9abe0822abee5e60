#include "lines.h"

#include <cstdio>

namespace fastgpu::test {
namespace {

void print(const char* kind, const std::string& fields) {
  std::printf("%s\t%s\n", kind, fields.c_str());
  std::fflush(stdout);
}

}  // namespace

void Lines::passed(const std::string& what, const std::string& detail) {
  print("ok", what + "\t" + detail);
}

void Lines::failed(const std::string& what, const std::string& detail) {
  ++failures_;
  print("FAIL", what + "\t" + detail);
}

void Lines::rate(const Rate& rate) {
  const char* const verdict = rate.target.empty() ? "" : rate.met ? "met" : "missed";
  print("rate",
        rate.what + "\t" + rate.figure + "\t" + rate.share + "\t" + rate.target + "\t" + verdict);
}

void CaseGroup::add(const std::string& wrong) {
  ++cases_;
  if (wrong.empty()) return;
  if (++wrong_ <= kShown) lines_.failed(what_, wrong);
}

void CaseGroup::finish() {
  if (cases_ == 0) return lines_.failed(what_, "no case has run");
  if (wrong_ == 0) return lines_.passed(what_, std::to_string(cases_) + " cases");
  lines_.failed(what_, std::to_string(wrong_) + " of " + std::to_string(cases_) + " cases");
}

}  // namespace fastgpu::test
