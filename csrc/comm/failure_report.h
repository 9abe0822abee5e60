// The text of a failure. It says first what happened and to which rank, then where this was seen,
// then what the reader can do. For example: "rank 1 (host n2, pid 4711) was lost: its process
// ended. Seen by rank 0 in all_reduce #19 of group '0', reported by rank 2. Every later call on
// this group raises the same error; start the lost rank again or destroy the group." Thread safety:
// pure functions.
#pragma once

#include <string>

#include "base/error.h"

namespace fastgpu {

// The failure and the place where this rank saw it. The peers receive this part.
std::string report_of(const Failure& failure, int rank, const std::string& group);
// A report that came from a peer, and says so unless the peer saw it itself.
std::string relayed_report(const std::string& report, int reporter);
// The report of a failure with what its reader can do now.
std::string with_advice(const std::string& report, ErrorKind kind);

}  // namespace fastgpu
