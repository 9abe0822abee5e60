#include "comm/topology.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/log.h"

namespace fastgpu {
namespace {

constexpr TimeNs kProbeLimit = 5 * kSecond;
constexpr std::size_t kMaxEndpoints = 8;

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

// The cores that this process may use, in order; {0} where the kernel does not say.
std::vector<int> available_cores() {
  // The kernel may have been built for more cores than cpu_set_t holds.
  constexpr int kMaxCores = 1 << 16;
  struct FreeSet {
    void operator()(cpu_set_t* set) const noexcept { CPU_FREE(set); }
  };
  const std::unique_ptr<cpu_set_t, FreeSet> set(CPU_ALLOC(kMaxCores));
  if (set == nullptr) throw std::bad_alloc();
  const std::size_t size_bytes = CPU_ALLOC_SIZE(kMaxCores);
  CPU_ZERO_S(size_bytes, set.get());
  if (::sched_getaffinity(0, size_bytes, set.get()) != 0) return {0};
  std::vector<int> cores;
  for (int core = 0; core < kMaxCores; ++core) {
    if (CPU_ISSET_S(core, size_bytes, set.get())) cores.push_back(core);
  }
  return cores;
}

uint64_t random_id() {
  std::random_device random;
  return static_cast<uint64_t>(random()) << 32 | random();
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1";
}

// The addresses to publish, best first: where the store is reached from, then the others.
std::vector<std::string> own_addresses(const RendezvousRequest& request) {
  const std::vector<InterfaceAddress> all = interface_addresses();
  std::vector<std::string> addresses;
  if (!request.options.interface.empty()) {
    for (const auto& entry : match_interfaces(request.options.interface, all)) {
      addresses.push_back(entry.address);
    }
    return addresses;
  }
  if (!request.store_host.empty()) {
    const std::string towards = address_towards(request.store_host, request.store_port);
    if (!towards.empty()) addresses.push_back(towards);
  }
  for (const bool loopback : {false, true}) {
    for (const auto& entry : all) {
      const bool known =
          std::find(addresses.begin(), addresses.end(), entry.address) != addresses.end();
      if (entry.loopback == loopback && !known) addresses.push_back(entry.address);
    }
  }
  return addresses;
}

// What schedules follow from, beside the call.
constexpr std::array kAgreed = {"algorithm", "lanes", "deterministic"};

PeerRecord own_record(const RendezvousRequest& request, Connector& connector) {
  PeerRecord record;
  record.host = host_name();
  record.pid = ::getpid();
  record.machine = boot_id();
  record.unix_name = connector.unix_name();
  record.transport = request.options.transport;
  for (const char* name : kAgreed) {
    record.agreed.append(record.agreed.empty() ? "" : " ").append(name).append("=");
    record.agreed += get_field(request.options, name);
  }
  record.communicator = random_id();
  record.constants = request.constants;
  record.cores = available_cores();
  const uint16_t port = connector.listen(request.options.port_range);
  for (const std::string& address : own_addresses(request)) {
    if (record.endpoints.size() < kMaxEndpoints) record.endpoints.push_back({address, port});
  }
  return record;
}

std::string key_of(const char* what, int rank) {
  return std::string("fastgpu/") + what + "/" + std::to_string(rank);
}

// Everyone's value of a key, by rank. Names all that are missing at the deadline, not only the
// first.
std::vector<std::string> gather(const RendezvousRequest& request, Store& store, const char* what) {
  std::vector<std::string> values;
  std::string missing;
  std::string why;  // of the first
  for (int rank = 0; rank < request.world; ++rank) {
    try {
      values.push_back(
          store.get(key_of(what, rank), missing.empty() ? request.deadline : now_ns()));
    } catch (const RendezvousError& error) {
      if (missing.empty()) why = error.what();
      missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
      values.emplace_back();
    }
  }
  if (!missing.empty()) {
    raise(ErrorKind::kRendezvous, "rank " + std::to_string(request.rank) + ": of the " +
                                      std::to_string(request.world) + " ranks of group '" +
                                      request.name + "' these did not come in time: " + missing +
                                      " (" + why + ")");
  }
  return values;
}

// The lowest rank whose memory this one can map; itself if there is none before it.
int find_leader(const RendezvousRequest& request, const std::vector<PeerRecord>& records,
                const Connector& connector) {
  const PeerRecord& mine = records[static_cast<std::size_t>(request.rank)];
  if (request.options.transport == Transport::kTcp) return request.rank;
  std::string refused;
  int leader = request.rank;
  for (int rank = 0; rank < request.rank && leader == request.rank; ++rank) {
    const PeerRecord& other = records[static_cast<std::size_t>(rank)];
    if (other.machine != mine.machine || other.transport == Transport::kTcp) continue;
    if (connector.probe(other.unix_name, now_ns() + kProbeLimit)) {
      leader = rank;
    } else {
      refused.append(refused.empty() ? "" : ",").append(std::to_string(rank));
    }
  }
  if (!refused.empty()) {
    log(LogLevel::kWarn, "no_shared_memory",
        "rank=" + std::to_string(request.rank) + " peers=" + refused + " reason=" +
            quoted("these ranks run on this machine, but in another container or network "
                   "namespace, so their memory cannot be mapped: TCP is used instead"));
  }
  return leader;
}

std::vector<int> dense_hosts(const std::vector<int>& leaders) {
  std::vector<int> seen;
  std::vector<int> hosts;
  for (const int leader : leaders) {
    const auto found = std::find(seen.begin(), seen.end(), leader);
    hosts.push_back(static_cast<int>(found - seen.begin()));
    if (found == seen.end()) seen.push_back(leader);
  }
  return hosts;
}

PeerAddress address_of(const RendezvousRequest& request, const Topology& topology, int rank) {
  const auto at = static_cast<std::size_t>(rank);
  const auto me = static_cast<std::size_t>(request.rank);
  const PeerRecord& record = topology.records[at];
  PeerAddress address;
  address.shared_memory = topology.host_of[at] == topology.host_of[me];
  address.unix_name = record.unix_name;
  const bool same_machine = record.machine == topology.records[me].machine;
  for (const Endpoint& endpoint : record.endpoints) {
    if (same_machine || !is_loopback(endpoint.address)) address.endpoints.push_back(endpoint);
  }
  if (address.shared_memory) return address;
  if (request.options.transport == Transport::kShm) {
    raise(ErrorKind::kRendezvous, "FASTGPU_TRANSPORT is shm, but " + name_of_rank(topology, rank) +
                                      " does not share memory with this rank; use auto or tcp");
  }
  if (address.endpoints.empty()) {
    raise(ErrorKind::kRendezvous,
          name_of_rank(topology, rank) +
              " publishes no address that another machine can reach; set FASTGPU_INTERFACE there");
  }
  return address;
}

void check_options(const Topology& topology) {
  for (std::size_t rank = 1; rank < topology.records.size(); ++rank) {
    if (topology.records[rank].agreed == topology.records[0].agreed) continue;
    const int other = static_cast<int>(rank);
    Failure failure;
    failure.kind = ErrorKind::kMismatch;
    failure.peer = other;
    failure.message = "the ranks have different options: " + name_of_rank(topology, 0) + " has " +
                      topology.records[0].agreed + ", " + name_of_rank(topology, other) + " has " +
                      topology.records[rank].agreed +
                      "; give every rank the same (FASTGPU_ALGORITHM, FASTGPU_LANES, "
                      "FASTGPU_DETERMINISTIC, or the group's pg_options)";
    raise(failure);
  }
}

}  // namespace

std::string to_text(const PeerRecord& record) {
  std::ostringstream text;
  text << "host=" << record.host << "\npid=" << record.pid << "\nmachine=" << record.machine
       << "\nunix=" << record.unix_name << "\ntransport=" << static_cast<int>(record.transport)
       << "\nagreed=" << record.agreed << "\ncommunicator=" << record.communicator
       << "\nconstants=" << record.constants << "\n";
  for (const int core : record.cores) text << "core=" << core << "\n";
  for (const Endpoint& endpoint : record.endpoints) {
    text << "endpoint=" << endpoint.port << " " << endpoint.address << "\n";
  }
  return text.str();
}

PeerRecord record_from_text(const std::string& text) {
  PeerRecord record;
  std::istringstream lines(text);
  try {
    for (std::string line; std::getline(lines, line);) {
      const std::size_t equals = line.find('=');
      const std::string name = line.substr(0, equals);
      const std::string value = equals == std::string::npos ? "" : line.substr(equals + 1);
      if (name == "host") record.host = value;
      if (name == "pid") record.pid = std::stoi(value);
      if (name == "machine") record.machine = value;
      if (name == "unix") record.unix_name = value;
      if (name == "transport") record.transport = static_cast<Transport>(std::stoi(value));
      if (name == "agreed") record.agreed = value;
      if (name == "communicator") record.communicator = std::stoull(value);
      if (name == "constants") record.constants = value;
      if (name == "core") record.cores.push_back(std::stoi(value));
      if (name == "endpoint") {
        const std::size_t space = value.find(' ');
        record.endpoints.push_back(
            {value.substr(space + 1), static_cast<uint16_t>(std::stoul(value.substr(0, space)))});
      }
    }
  } catch (const std::logic_error&) {
    record.unix_name.clear();
  }
  if (record.unix_name.empty()) {
    raise(ErrorKind::kRendezvous,
          "a rank's card at the store cannot be read; does every rank run the same version of "
          "fastgpu_comm? It says: " +
              text.substr(0, 200));
  }
  return record;
}

Topology rendezvous(const RendezvousRequest& request, Store& store, Connector& connector) {
  Topology topology;
  store.set(key_of("rank", request.rank), to_text(own_record(request, connector)));
  for (const std::string& text : gather(request, store, "rank")) {
    topology.records.push_back(record_from_text(text));
  }
  check_options(topology);
  const int leader = find_leader(request, topology.records, connector);
  store.set(key_of("leader", request.rank), std::to_string(leader));
  std::vector<int> leaders;
  for (const std::string& text : gather(request, store, "leader")) {
    leaders.push_back(std::stoi(text));
  }
  topology.host_of = dense_hosts(leaders);
  for (int rank = 0; rank < request.world; ++rank) {
    topology.addresses.push_back(rank == request.rank ? PeerAddress{}
                                                      : address_of(request, topology, rank));
  }
  std::map<std::string, int> ranks_of_machine;
  for (const PeerRecord& record : topology.records) {
    topology.most_on_machine =
        std::max(topology.most_on_machine, ++ranks_of_machine[record.machine]);
  }
  const std::string& machine = topology.records[static_cast<std::size_t>(request.rank)].machine;
  topology.ranks_on_machine = ranks_of_machine[machine];
  std::set<int> cores;
  for (const PeerRecord& record : topology.records) {
    if (record.machine == machine) cores.insert(record.cores.begin(), record.cores.end());
  }
  topology.cores_on_machine = std::max(1, static_cast<int>(cores.size()));
  return topology;
}

std::string name_of_rank(const Topology& topology, int rank) {
  if (rank < 0 || rank >= static_cast<int>(topology.records.size())) return "an unknown rank";
  const PeerRecord& record = topology.records[static_cast<std::size_t>(rank)];
  return "rank " + std::to_string(rank) + " (host " + record.host + ", pid " +
         std::to_string(record.pid) + ")";
}

}  // namespace fastgpu
