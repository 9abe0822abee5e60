// The text of a failure, in this order: the event and the rank that it struck, the place where a
// rank saw it, and the next step for the reader. For example: "rank 1 (host n2, pid 4711) was lost:
// its process ended. Seen by rank 0 in all_reduce #19 of group '0', reported by rank 2. Every later
// call on this group raises the same error; find out why it ended, and start all ranks again."
// Thread safety: pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace fastgpu {

// "group '3' (data_parallel, global ranks 4, 5)": the group's name with the user's description, and
// its ranks in the default group, unless they are the same.
std::string group_name(const std::string& name, const std::string& description,
                       const std::vector<int>& global_ranks);
// Gives the first mention of "rank `rank`" in a text the rank's full name: "rank 1 (host n2, pid
// 4711)".
std::string with_name(std::string text, int rank, const std::string& name);
// The failure and the place where this rank saw it. The peers receive this part.
// `group` is its name in messages, such as "group '0'".
std::string report_of(const Failure& failure, int rank, const std::string& group);
// A failure of a call that the library made while it set up the group.
Failure in_set_up(Failure failure);
// Whether the text says which rank saw or reported the failure, as a report does.
bool names_observer(const std::string& report);
// A report that came from a peer. The result names the rank that saw the failure, or else the first
// one that reported it, and has no control characters.
std::string relayed_report(std::string report, int reporter);
// The report of a failure with what its reader can do now.
std::string with_advice(const std::string& report, ErrorKind kind);
std::string with_set_up_advice(const std::string& report);

}  // namespace fastgpu
