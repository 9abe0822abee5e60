// The record that ranks exchange through the store, and what rendezvous() says about values that it
// cannot use.
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "comm/rendezvous.h"
#include "comm/runtime.h"
#include "comm/store.h"

namespace fastgpu::test {
namespace {

// The example of docs/wire.md.
const std::string kText =
    "version=2\n"
    "host=node7\n"
    "pid=4711\n"
    "machine=6a3f8f2e-41a5-4f5a-9d0c-2c8f5e1b7a90\n"
    "unix=fastgpu-4711-0123456789abcdef\n"
    "transport=0\n"
    "agreed=algorithm=auto lanes=auto deterministic=0\n"
    "communicator=81985529216486895\n"
    "constants=\n"
    "core=0\n"
    "core=1\n"
    "endpoint=40001 10.0.0.7\n"
    "endpoint=40001 fe80::1%eth0\n";

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

// The error of rank 0, when the other rank wrote these values.
std::string error_of(const std::string& record, const std::string& leader) {
  Runtime runtime(EngineConfig{.background = false});
  MemoryStore store;
  store.set("fastgpu/rank/1", record);
  store.set("fastgpu/leader/1", leader);
  try {
    rendezvous(two_ranks(), store, runtime.connector());
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
  CHECK_EQ(record.agreed, "algorithm=auto lanes=auto deterministic=0");
  CHECK_EQ(record.communicator, uint64_t{81985529216486895});
  CHECK_EQ(record.constants, "");
  CHECK(record.cores == (std::vector<int>{0, 1}));
  CHECK(record.endpoints == (std::vector<Endpoint>{{"10.0.0.7", 40001}, {"fe80::1%eth0", 40001}}));
  CHECK_EQ(to_text(record), kText);
}

TEST(the_largest_numbers_of_a_record_are_read) {
  PeerRecord record = record_from_text(kText);
  record.pid = 2147483647;
  record.communicator = ~uint64_t{0};
  record.cores = {65535};
  record.transport = Transport::kTcp;
  record.endpoints.assign(8, {"::1", 65535});
  CHECK_EQ(to_text(record_from_text(to_text(record))), to_text(record));
  record.endpoints.clear();
  CHECK_EQ(to_text(record_from_text(to_text(record))), to_text(record));
}

TEST(a_record_without_one_of_its_fields_is_refused) {
  const std::array<std::pair<const char*, const char*>, 9> fields{{
      {"version", "version=2\n"},
      {"host", "host=node7\n"},
      {"pid", "pid=4711\n"},
      {"machine", "machine=6a3f8f2e-41a5-4f5a-9d0c-2c8f5e1b7a90\n"},
      {"unix", "unix=fastgpu-4711-0123456789abcdef\n"},
      {"transport", "transport=0\n"},
      {"agreed", "agreed=algorithm=auto lanes=auto deterministic=0\n"},
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
  refused("endpoint=40001 10.0.0.7", "endpoint=0 10.0.0.7", "not a number from 1 to 65535");
  refused("endpoint=40001 10.0.0.7", "endpoint=65536 10.0.0.7", "'endpoint' is \"65536\"");
  refused("endpoint=40001 10.0.0.7", "endpoint=40001 ", "not a port and an address");
  refused("endpoint=40001 10.0.0.7", "endpoint=40001", "not a port and an address");
  refused("endpoint=40001 10.0.0.7", "endpoint=10.0.0.7 40001", "'endpoint' is \"10.0.0.7\"");
  refused("unix=fastgpu-4711-0123456789abcdef", "unix=", "'unix' is empty");
  PeerRecord record = record_from_text(kText);
  record.endpoints.assign(9, {"::1", 1});
  CHECK_THROWS(record_from_text(to_text(record)), RendezvousError, "more than 8 'endpoint'");
}

TEST(a_record_of_another_form_is_refused) {
  CHECK_THROWS(record_from_text(replaced("host=node7", "host")), RendezvousError, "has no '='");
  CHECK_THROWS(record_from_text(replaced("host=", "host=\ncolour=")), RendezvousError,
               "unknown 'colour'");
  CHECK_THROWS(record_from_text(std::string(5000, 'x')), RendezvousError, "has no '='");
}

TEST(a_record_of_another_version_is_refused_whatever_else_it_has) {
  const std::string text = "version=1\nhost=node7\ncolour=blue\n";
  CHECK_THROWS(record_from_text(text), RendezvousError,
               "its version is 1, and this rank's is 2; does every rank run the same version of "
               "fastgpu_comm?");
}

TEST(rendezvous_names_the_rank_whose_record_it_cannot_use) {
  const std::string error = error_of("nonsense", "1");
  CHECK(contains(error, "rank 0, group 'pair': rank 1: its record at the store cannot be used"));
  CHECK(contains(error, "same version"));
  CHECK(contains(error, "nonsense"));
}

TEST(rendezvous_refuses_a_leader_that_is_no_lower_rank) {
  for (const std::string leader : {"", "x", "-1", "2", "1 ", "99999999999999999999"}) {
    const std::string error = error_of(kText, leader);
    CHECK(contains(error, "rank 1 wrote the leader \"" + leader + "\" to the store"));
    CHECK(contains(error, "not a rank from 0 to 1"));
  }
}

TEST(rendezvous_names_every_rank_that_did_not_come) {
  Runtime runtime(EngineConfig{.background = false});
  MemoryStore store;
  store.set("fastgpu/rank/2", kText);
  RendezvousRequest request = two_ranks();
  request.world = 4;
  request.deadline = now_ns() + 10 * kMillisecond;
  CHECK_THROWS(rendezvous(request, store, runtime.connector()), RendezvousError,
               "of 4 ranks these did not come in time: 1, 3 (");
}

TEST(rendezvous_returns_what_every_rank_wrote) {
  Runtime runtime(EngineConfig{.background = false});
  MemoryStore store;
  store.set("fastgpu/rank/1", kText);
  store.set("fastgpu/leader/1", "1");
  const Peers peers = rendezvous(two_ranks(), store, runtime.connector());
  CHECK_EQ(peers.records.size(), std::size_t{2});
  CHECK_EQ(peers.records[0].unix_name, runtime.connector().unix_name());
  CHECK_EQ(to_text(peers.records[1]), kText);
  CHECK(peers.leaders == (std::vector<int>{0, 1}));
}

TEST(rendezvous_refuses_options_that_differ) {
  Runtime runtime(EngineConfig{.background = false});
  MemoryStore store;
  store.set("fastgpu/rank/1", replaced("lanes=auto", "lanes=3"));
  CHECK_THROWS(rendezvous(two_ranks(), store, runtime.connector()), CollectiveMismatchError,
               "rank 1 (host node7, pid 4711) has algorithm=auto lanes=3 deterministic=0");
}

}  // namespace
}  // namespace fastgpu::test
