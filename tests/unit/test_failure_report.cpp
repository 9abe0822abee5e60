// The text of a failure: its parts, and their order.
#include "check.h"
#include "comm/failure_report.h"

namespace fastgpu {
namespace {

TEST(a_report_says_what_where_and_what_to_do) {
  Failure failure =
      make_failure(ErrorKind::kPeerLost, "rank 1 (host n2, pid 4711) was lost: its process ended",
                   1, "all_reduce");
  failure.sequence = 19;
  const std::string report = report_of(failure, 0, "group 'dp'");
  CHECK_EQ(report,
           "rank 1 (host n2, pid 4711) was lost: its process ended. Seen by rank 0 in all_reduce "
           "#19 of group 'dp'");
  CHECK_EQ(with_advice(report, failure.kind),
           report +
               ". Every later call on this group raises the same error; find out why it ended, "
               "and start all ranks again.");
}

TEST(a_report_of_no_operation_names_the_group) {
  CHECK_EQ(report_of(make_failure(ErrorKind::kAborted, "aborted"), 3, "group 'dp'"),
           "aborted. Seen by rank 3 of group 'dp'");
  CHECK_EQ(report_of(make_failure(ErrorKind::kTimeout, "late", 1, "recv"), 3, "group 'dp'"),
           "late. Seen by rank 3 in recv of group 'dp'");
}

TEST(the_first_mention_of_a_rank_gets_its_full_name) {
  const std::string name = "rank 1 (host n2, pid 4711)";
  CHECK_EQ(with_name("recv waited for rank 1, not for rank 12", 1, name),
           "recv waited for rank 1 (host n2, pid 4711), not for rank 12");
  CHECK_EQ(with_name("rank 12 called, but rank 1 did not", 1, name),
           "rank 12 called, but rank 1 (host n2, pid 4711) did not");
  CHECK_EQ(with_name(name + " was lost; rank 1 is gone", 1, name),
           name + " was lost; rank 1 is gone");
  CHECK_EQ(with_name("waited for rank 1", 1, name), "waited for " + name);
  CHECK_EQ(with_name("waited for any rank", 1, name), "waited for any rank");
}

// However many ranks pass a report on, it names only the first of them.
TEST(a_relayed_report_has_no_second_prefix) {
  const std::string report =
      report_of(make_failure(ErrorKind::kAborted, "aborted"), 12, "group 'dp'");
  CHECK_EQ(relayed_report(report, 12), report);
  const std::string relayed = relayed_report(report, 1);
  CHECK_EQ(relayed, report + ", reported by rank 1");
  CHECK_EQ(relayed_report(relayed, 7), relayed);
}

TEST(a_relayed_report_has_no_control_characters) {
  CHECK_EQ(relayed_report(std::string("a\0b\n\x1b[31m\xff", 10), 1),
           std::string("a b  [31m?") + ", reported by rank 1");
}

TEST(every_kind_of_failure_has_an_advice) {
  for (const ErrorKind kind :
       {ErrorKind::kPeerLost, ErrorKind::kTimeout, ErrorKind::kMismatch, ErrorKind::kAborted,
        ErrorKind::kAuthentication, ErrorKind::kOutOfResources}) {
    CHECK(with_advice("x", kind).starts_with("x. Every later call on this group raises"));
    CHECK(with_advice("x", kind).ends_with("group.") || with_advice("x", kind).ends_with("on.") ||
          with_advice("x", kind).ends_with("again."));
  }
}

}  // namespace
}  // namespace fastgpu
