#include "comm/failure_report.h"

#include <algorithm>
#include <string_view>

#include "base/text.h"

namespace fastgpu {
namespace {

constexpr const char* kReportedBy = ", reported by rank ";

constexpr const char* kSeenBy = "Seen by rank ";

std::string seen_by(int rank) { return kSeenBy + std::to_string(rank) + " "; }

const char* advice_for(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kPeerLost:
      return "find out why it ended, and start all ranks again";
    case ErrorKind::kTimeout:
      return "find out what holds up the other rank, or use a longer timeout in a new group";
    case ErrorKind::kOutOfResources:
      return "raise that limit, and start all ranks again";
    case ErrorKind::kMismatch:
      return "correct the calls, and destroy the group";
    default:
      return "make a new group to go on";
  }
}

// "global ranks 4, 5, 6", for a group whose ranks are not those of the default group; else empty.
std::string describe_global_ranks(const std::vector<int>& global_ranks) {
  constexpr std::size_t kShown = 16;
  std::string text;
  bool differ = false;
  for (std::size_t rank = 0; rank < global_ranks.size(); ++rank) {
    differ = differ || global_ranks[rank] != static_cast<int>(rank);
    if (rank < kShown) text += (rank == 0 ? "" : ", ") + std::to_string(global_ranks[rank]);
    if (rank == kShown) text += ", ...";
  }
  return differ ? "global ranks " + text : "";
}

}  // namespace

std::string group_name(const std::string& name, const std::string& description,
                       const std::vector<int>& global_ranks) {
  std::string details = describe_global_ranks(global_ranks);
  const bool both = !description.empty() && !details.empty();
  details = description + (both ? ", " : "") + details;
  return "group '" + name + "'" + (details.empty() ? "" : " (" + details + ")");
}

std::string with_name(std::string text, int rank, const std::string& name) {
  const std::string mention = "rank " + std::to_string(rank);
  for (auto at = text.find(mention); at != std::string::npos; at = text.find(mention, at + 1)) {
    const std::string_view rest = std::string_view(text).substr(at + mention.size());
    if (!rest.empty() && rest.front() >= '0' && rest.front() <= '9') continue;
    return rest.starts_with(" (") ? text : text.replace(at, mention.size(), name);
  }
  return text;
}

std::string report_of(const Failure& failure, int rank, const std::string& group) {
  std::string text = failure.message + ". " + seen_by(rank);
  if (!failure.op.empty()) {
    text += "in " + failure.op;
    if (failure.sequence >= 0) text += " #" + std::to_string(failure.sequence);
    text += ' ';
  }
  return text + "of " + group;
}

Failure in_set_up(Failure failure) {
  failure.op = "the set-up";
  failure.sequence = -1;
  return failure;
}

bool names_observer(const std::string& report) {
  return report.find(kSeenBy) != std::string::npos || report.find(kReportedBy) != std::string::npos;
}

std::string relayed_report(std::string report, int reporter) {
  const bool names_source = report.find(seen_by(reporter)) != std::string::npos ||
                            report.find(kReportedBy) != std::string::npos;
  report = printable(report);
  if (!names_source) report += kReportedBy + std::to_string(reporter);
  return report;
}

std::string with_advice(const std::string& report, ErrorKind kind) {
  return report + ". Every later call on this group raises the same error; " + advice_for(kind) +
         ".";
}

std::string with_set_up_advice(const std::string& report) {
  return report + ". Correct this on that rank, and make the group again on all ranks.";
}

}  // namespace fastgpu
