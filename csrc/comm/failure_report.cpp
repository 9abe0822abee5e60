#include "comm/failure_report.h"

#include <algorithm>

namespace fastgpu {
namespace {

constexpr const char* kReportedBy = ", reported by rank ";

std::string seen_by(int rank) { return "Seen by rank " + std::to_string(rank) + " "; }

const char* advice_for(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kPeerLost:
      return "find out why it ended, and start all ranks again";
    case ErrorKind::kTimeout:
      return "find out what holds up the other rank, or use a longer timeout in a new group";
    case ErrorKind::kMismatch:
      return "correct the calls, and destroy the group";
    default:
      return "make a new group to go on";
  }
}

}  // namespace

std::string report_of(const Failure& failure, int rank, const std::string& group) {
  std::string text = failure.message + ". " + seen_by(rank);
  if (!failure.op.empty()) {
    text += "in " + failure.op;
    if (failure.sequence >= 0) text += " #" + std::to_string(failure.sequence);
    text += ' ';
  }
  return text + "of group '" + group + "'";
}

std::string relayed_report(std::string report, int reporter) {
  const bool names_source = report.find(seen_by(reporter)) != std::string::npos ||
                            report.find(kReportedBy) != std::string::npos;
  // A broken peer must not cut the text short with a NUL, or steer the reader's terminal.
  std::ranges::replace_if(
      report, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, ' ');
  if (!names_source) report += kReportedBy + std::to_string(reporter);
  return report;
}

std::string with_advice(const std::string& report, ErrorKind kind) {
  return report + ". Every later call on this group raises the same error; " + advice_for(kind) +
         ".";
}

}  // namespace fastgpu
