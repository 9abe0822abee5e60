// The record that ranks exchange through the store, and what rendezvous() says about values that it
// cannot use.
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "base/call.h"
#include "base/error.h"
#include "check.h"
#include "comm/rendezvous.h"
#include "comm/runtime.h"
#include "comm/store.h"
#include "sim/rank_threads.h"

namespace fastgpu::test {
namespace {

// The examples of docs/wire.md.
const std::string kText =
    "version=3\n"
    "host=node7\n"
    "pid=4711\n"
    "world=2\n"
    "machine=6a3f8f2e-41a5-4f5a-9d0c-2c8f5e1b7a90\n"
    "unix=fastgpu-4711-0123456789abcdef\n"
    "transport=0\n"
    "agreed=algorithm=auto lanes=auto deterministic=0 codec=none gpu_engine=auto\n"
    "communicator=81985529216486895\n"
    "constants=\n"
    "core=0\n"
    "core=1\n";
const std::string kEndpoints =
    "endpoint=40001 10.0.0.7\n"
    "endpoint=40001 fe80::1%eth0\n";
const std::string kFailed =
    "version=3\n"
    "host=node7\n"
    "pid=4711\n"
    "rank=1\n"
    "kind=0\n"
    "reason=FASTGPU_LANES is 'many'\n";

std::string replaced(const std::string& line, const std::string& by) {
  std::string text = kText;
  const std::size_t at = text.find(line);
  if (at == std::string::npos) throw Failed("no line " + line);
  return text.replace(at, line.size(), by);
}

RendezvousRequest two_ranks() {
  RendezvousRequest request;
  request.world = 2;
  request.name = "pair";
  request.deadline = now_ns() + kSecond;
  return request;
}

Peers meet(const RendezvousRequest& request, Store& store) {
  Runtime runtime(EngineConfig{.background = false});
  RendezvousStore place(store, request.rank, request.world, request.name);
  return rendezvous(request, place, runtime.connector());
}

// The error of rank 0, when the other rank wrote these values.
std::string error_of(const std::string& record, const std::string& leader,
                     const std::string& endpoints = kEndpoints) {
  MemoryStore store;
  store.set("fastgpu/1/rank/1", record);
  store.set("fastgpu/1/leader/1", leader);
  store.set("fastgpu/1/endpoints/1", endpoints);
  try {
    meet(two_ranks(), store);
  } catch (const RendezvousError& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(a_record_is_read_as_it_was_written) {
  const PeerRecord record = record_from_text(kText);
  CHECK_EQ(record.host, "node7");
  CHECK_EQ(record.pid, 4711);
  CHECK_EQ(record.machine, "6a3f8f2e-41a5-4f5a-9d0c-2c8f5e1b7a90");
  CHECK_EQ(record.unix_name, "fastgpu-4711-0123456789abcdef");
  CHECK(record.transport == Transport::kAuto);
  CHECK_EQ(record.agreed, "algorithm=auto lanes=auto deterministic=0 codec=none gpu_engine=auto");
  CHECK_EQ(record.communicator, uint64_t{81985529216486895});
  CHECK_EQ(record.constants, "");
  CHECK(record.cores == (std::vector<int>{0, 1}));
  CHECK_EQ(record.world, 2);
  CHECK_EQ(to_text(record), kText);
  const std::vector<Endpoint> endpoints = endpoints_from_text(kEndpoints);
  CHECK(endpoints == (std::vector<Endpoint>{{"10.0.0.7", 40001}, {"fe80::1%eth0", 40001}}));
  CHECK_EQ(to_text(endpoints), kEndpoints);
  const SetUpFailure failure = set_up_failure_from_text(kFailed);
  CHECK_EQ(name_of_rank(failure.rank, failure), "rank 1 (host node7, pid 4711)");
  CHECK(failure.kind == ErrorKind::kInvalidArgument);
  CHECK_EQ(failure.reason, "FASTGPU_LANES is 'many'");
  CHECK_EQ(to_text(failure), kFailed);
}

TEST(a_reason_stays_on_one_line_of_text) {
  SetUpFailure failure = set_up_failure_from_text(kFailed);
  failure.reason = "two\nlines\x1b and \xff" + std::string(5000, 'x');
  const std::string read = set_up_failure_from_text(to_text(failure)).reason;
  CHECK(read.starts_with("two lines  and ?xxx"));
  CHECK_EQ(read.size(), std::size_t{4000});
}

TEST(the_largest_numbers_of_a_record_are_read) {
  PeerRecord record = record_from_text(kText);
  record.pid = 2147483647;
  record.communicator = ~uint64_t{0};
  record.cores = {65535};
  record.transport = Transport::kTcp;
  record.world = kMaxWorld;
  CHECK_EQ(to_text(record_from_text(to_text(record))), to_text(record));
  const std::vector<Endpoint> endpoints(8, {"::1", 65535});
  CHECK(endpoints_from_text(to_text(endpoints)) == endpoints);
}

TEST(a_record_without_one_of_its_fields_is_refused) {
  const std::array<std::pair<const char*, const char*>, 10> fields{{
      {"version", "version=3\n"},
      {"host", "host=node7\n"},
      {"pid", "pid=4711\n"},
      {"world", "world=2\n"},
      {"machine", "machine=6a3f8f2e-41a5-4f5a-9d0c-2c8f5e1b7a90\n"},
      {"unix", "unix=fastgpu-4711-0123456789abcdef\n"},
      {"transport", "transport=0\n"},
      {"agreed", "agreed=algorithm=auto lanes=auto deterministic=0 codec=none gpu_engine=auto\n"},
      {"communicator", "communicator=81985529216486895\n"},
      {"constants", "constants=\n"},
  }};
  for (const auto& [name, line] : fields) {
    CHECK_THROWS(record_from_text(replaced(line, "")), RendezvousError,
                 "it has no '" + std::string(name) + "'");
    CHECK_THROWS(record_from_text(replaced(line, std::string(line) + line)), RendezvousError,
                 "it has several '" + std::string(name) + "'");
  }
  CHECK_THROWS(record_from_text(replaced("core=0\ncore=1\n", "")), RendezvousError,
               "it has no 'core'");
  CHECK_THROWS(record_from_text(""), RendezvousError, "it has no 'version'");
}

TEST(a_record_with_a_value_out_of_range_is_refused) {
  const auto refused = [](const std::string& line, const std::string& by, const std::string& why) {
    CHECK_THROWS(record_from_text(replaced(line, by)), RendezvousError, why);
  };
  refused("pid=4711", "pid=0", "'pid' is \"0\", not a number from 1 to 2147483647");
  refused("pid=4711", "pid=2147483648", "'pid' is \"2147483648\"");
  refused("pid=4711", "pid=-1", "'pid' is \"-1\"");
  refused("pid=4711", "pid=47x", "'pid' is \"47x\"");
  refused("pid=4711", "pid= 4711", "'pid' is \" 4711\"");
  refused("pid=4711", "pid=", "'pid' is \"\"");
  refused("transport=0", "transport=3", "not a number from 0 to 2");
  refused("transport=0", "transport=auto", "'transport' is \"auto\"");
  refused("communicator=81985529216486895", "communicator=18446744073709551616",
          "not a number from 0 to 18446744073709551615");
  refused("communicator=81985529216486895", "communicator=-1", "'communicator' is \"-1\"");
  refused("core=1", "core=65536", "not a number from 0 to 65535");
  refused("core=1", "core=-1", "'core' is \"-1\"");
  refused("world=2", "world=0", "not a number from 1 to 65534");
  refused("unix=fastgpu-4711-0123456789abcdef", "unix=", "'unix' is empty");
}

TEST(endpoints_of_another_form_are_refused) {
  const auto refused = [](const std::string& text, const std::string& why) {
    CHECK_THROWS(endpoints_from_text(text), RendezvousError, why);
  };
  refused("endpoint=0 10.0.0.7\n", "not a number from 1 to 65535");
  refused("endpoint=65536 10.0.0.7\n", "'endpoint' is \"65536\"");
  refused("endpoint=40001 \n", "not a port and an address");
  refused("endpoint=40001\n", "not a port and an address");
  refused("endpoint=10.0.0.7 40001\n", "'endpoint' is \"10.0.0.7\"");
  refused("endpoint=1 ::1\ncolour=blue\n", "unknown 'colour'");
  refused("", "it has 0 'endpoint', not 1 to 8");
  refused(to_text(std::vector<Endpoint>(9, {"::1", 1})), "it has 9 'endpoint', not 1 to 8");
}

TEST(a_record_of_another_form_is_refused) {
  CHECK_THROWS(record_from_text(replaced("host=node7", "host")), RendezvousError, "has no '='");
  CHECK_THROWS(record_from_text(replaced("host=", "host=\ncolour=")), RendezvousError,
               "unknown 'colour'");
  CHECK_THROWS(record_from_text(std::string(5000, 'x')), RendezvousError, "has no '='");
}

TEST(a_record_of_another_version_is_refused_whatever_else_it_has) {
  const std::string text = "version=4\nhost=node7\ncolour=blue\n";
  CHECK_THROWS(record_from_text(text), RendezvousError, "its version is 4, and this rank's is 3");
}

TEST(rendezvous_names_the_rank_whose_values_it_cannot_use) {
  const std::string why = "rank 1: its record at the store cannot be used: ";
  const std::string advice =
      ". Seen by rank 0 of group 'pair'. Install one version of fastgpu_comm on all ranks.";
  for (const std::string& error : {error_of("nonsense", "1"), error_of(kText, "1", "nonsense")}) {
    CHECK(error.starts_with(why + "the line \"nonsense\" has no '='"));
    CHECK(error.ends_with(advice));
  }
}

TEST(rendezvous_refuses_a_leader_that_is_no_lower_rank) {
  for (const std::string leader : {"", "x", "-1", "2", "1 ", "99999999999999999999"}) {
    const std::string error = error_of(kText, leader);
    CHECK(contains(error, "rank 1 wrote the leader \"" + leader + "\" to the store"));
    CHECK(contains(error, "not a rank from 0 to 1"));
  }
}

TEST(rendezvous_names_every_rank_that_did_not_come) {
  MemoryStore store;
  store.set("fastgpu/1/rank/2", replaced("world=2", "world=4"));
  RendezvousRequest request = two_ranks();
  request.world = 4;
  request.deadline = now_ns() + 10 * kMillisecond;
  CHECK_THROWS(meet(request, store), RendezvousError,
               "ranks 1, 3 of 4 did not join in time. Seen by rank 0 of group 'pair'. Check that "
               "all ranks were started with this store and world size");
  request.deadline = now_ns() + 10 * kMillisecond;
  store.set("fastgpu/2/rank/1", replaced("world=2", "world=4"));
  store.set("fastgpu/2/rank/2", replaced("world=2", "world=4"));
  CHECK_THROWS(meet(request, store), RendezvousError, "rank 3 of 4 did not join in time");
}

TEST(rendezvous_returns_what_every_rank_wrote) {
  MemoryStore store;
  store.set("fastgpu/1/rank/1", kText);
  store.set("fastgpu/1/leader/1", "1");
  store.set("fastgpu/1/endpoints/1", kEndpoints);
  const Peers peers = meet(two_ranks(), store);
  CHECK_EQ(peers.records.size(), std::size_t{2});
  CHECK(static_cast<const ProcessName&>(peers.records[0]) == this_process());
  CHECK_EQ(to_text(peers.records[1]), kText);
  CHECK(peers.leaders == (std::vector<int>{0, 1}));
  CHECK(!peers.endpoints[0].empty());
  CHECK_EQ(to_text(peers.endpoints[1]), kEndpoints);
}

TEST(ranks_of_one_host_do_not_listen_for_tcp) {
  MemoryStore store;
  store.set("fastgpu/1/rank/1", kText);
  store.set("fastgpu/1/leader/1", "0");
  const Peers peers = meet(two_ranks(), store);
  CHECK(peers.endpoints[0].empty());
  CHECK(!store.try_get("fastgpu/1/endpoints/0"));
}

TEST(rendezvous_refuses_options_that_differ) {
  MemoryStore store;
  store.set("fastgpu/1/rank/1", replaced("lanes=auto", "lanes=3"));
  CHECK_THROWS(meet(two_ranks(), store), CollectiveMismatchError,
               "rank 1 (host node7, pid 4711) has algorithm=auto lanes=3 deterministic=0");
}

TEST(rendezvous_refuses_world_sizes_that_differ) {
  const std::string error = error_of(replaced("world=2", "world=3"), "1");
  CHECK(error.starts_with("rank 1 (host node7, pid 4711) has a world of 3 ranks, and rank 0 (" +
                          to_string(this_process()) + ") one of 2. Seen by rank 0"));
}

TEST(shared_memory_alone_does_not_reach_every_rank) {
  MemoryStore store;
  store.set("fastgpu/1/rank/1", replaced("transport=0", "transport=1"));
  store.set("fastgpu/1/leader/1", "1");
  CHECK_THROWS(meet(two_ranks(), store), RendezvousError,
               "rank 1 (host node7, pid 4711) has the transport shm, but rank 0 (" +
                   to_string(this_process()) + ") runs on another machine. Seen by");
  RendezvousRequest request = two_ranks();
  set_field(request.options, "transport", "shm");
  store.set("fastgpu/2/rank/1", replaced("transport=0", "transport=2"));
  store.set("fastgpu/2/leader/1", "1");
  CHECK_THROWS(
      meet(request, store), RendezvousError,
      ") has the transport shm, but rank 1 (host node7, pid 4711) has the transport tcp. ");
}

TEST(a_rank_without_an_address_for_other_machines_is_named) {
  const std::string error = error_of(kText, "1", "endpoint=1 127.0.0.1\nendpoint=1 ::1\n");
  CHECK(error.starts_with(
      "rank 1 (host node7, pid 4711) has no address that another machine can reach. Seen by"));
}

TEST(an_interface_that_does_not_exist_is_named_as_the_user_gave_it) {
  MemoryStore store;
  RendezvousRequest request = two_ranks();
  set_field(request.options, "interface", "no-such-interface");
  CHECK_THROWS(meet(request, store), InvalidArgumentError,
               "option 'interface' is 'no-such-interface', but no interface matches");
  request.options = options_from_environment({{"FASTGPU_INTERFACE", "no-such-interface"}});
  CHECK_THROWS(meet(request, store), InvalidArgumentError,
               "FASTGPU_INTERFACE is 'no-such-interface', but no interface matches");
}

// The error of rank 0 for a failure that rank 1 has reported as `text`.
std::string heard(const std::string& text) {
  MemoryStore store;
  store.set("fastgpu/1/failed", text);
  RendezvousRequest request = two_ranks();
  request.deadline = kNever;
  try {
    meet(request, store);
  } catch (const CommError& error) {
    return error.what();
  }
  return "";
}

TEST(a_rank_that_waits_hears_why_another_failed) {
  CHECK_EQ(heard(kFailed),
           "rank 1 (host node7, pid 4711) could not set up the group: FASTGPU_LANES is 'many'. "
           "Seen by rank 0 of group 'pair'. Correct this on that rank, and make the group again on "
           "all ranks.");
  // A failure that another rank has seen is not the reporter's own.
  CHECK_EQ(heard(kFailed.substr(0, kFailed.size() - 1) + ". Seen by rank 2 of group 'pair'.\n"),
           "FASTGPU_LANES is 'many'. Seen by rank 2 of group 'pair'.");
  CHECK(contains(heard("nonsense"), "its record at the store cannot be used"));
}

TEST(two_processes_of_one_rank_both_hear_of_it) {
  MemoryStore store;
  RendezvousStore older(store, 1, 2, "pair");
  older.set("rank", kText);
  RendezvousStore waiting(store, 0, 2, "pair");
  RendezvousStore newer(store, 1, 2, "pair");
  const std::string why =
      "two processes have this rank: host node7, pid 4711, and " + to_string(this_process());
  CHECK_THROWS(waiting.wait("leader", 1, kNever), RendezvousError, why);
  CHECK_THROWS(older.wait("rank", 0, kNever), RendezvousError, why);
  CHECK_THROWS(newer.wait("rank", 0, kNever), RendezvousError, why);
  CHECK(newer.predecessor().has_value());
}

TEST(a_store_serves_one_group_after_the_other) {
  MemoryStore store;
  for (int use = 0; use < 3; ++use) {
    with_threads(2, [&](int rank) {
      RendezvousRequest request = two_ranks();
      request.rank = rank;
      request.deadline = kNever;
      CHECK_EQ(meet(request, store).records.size(), std::size_t{2});
    });
  }
}

}  // namespace
}  // namespace fastgpu::test
