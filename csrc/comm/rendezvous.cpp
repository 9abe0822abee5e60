#include "comm/rendezvous.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <functional>
#include <memory>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "base/shortage.h"
#include "base/text.h"
#include "comm/failure_report.h"
#include "plan/cost/choose.h"

namespace fastgpu {
namespace {

constexpr TimeNs kProbeLimit = 5 * kSecond;
constexpr const char* kSameVersion = "Install one version of fastgpu_comm on all ranks.";

constexpr const char* kFellSilent = "joined, but did not say in time whom they reach";

// The options that determine the schedules.
constexpr std::array kAgreed = {"algorithm", "lanes", "deterministic", "codec", "gpu_engine"};

// Ranks whose ids differ do not try to share memory, so a shortage must not give an empty one.
std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  if (!file && is_shortage(errno)) raise_shortage("cannot read the boot id", errno);
  std::string id;
  std::getline(file, id);
  return printable(id);
}

// The cores that this process may use, in ascending order; {0} if the kernel does not say.
std::vector<int> available_cores() {
  // The kernel may support more cores than a cpu_set_t holds.
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

// The addresses to publish, best first: those that FASTGPU_INTERFACE selects. By default the
// address that routes to the store, then all others, loopback last.
std::vector<std::string> own_addresses(const RendezvousRequest& request) {
  const std::vector<InterfaceAddress> all = interface_addresses();
  std::vector<std::string> addresses;
  if (!request.options.interface.empty()) {
    const std::string label = label_of(request.options, "interface");
    for (const auto& entry : match_interfaces(request.options.interface, all, label)) {
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

// The control link and the streams that each peer may open.
std::size_t connections_of(const RendezvousRequest& request) {
  const int lanes = request.options.lanes > 0 ? request.options.lanes : kMaxChosenLanes;
  return static_cast<std::size_t>(request.world) * static_cast<std::size_t>(lanes + 2);
}

PeerRecord own_record(const RendezvousRequest& request, const Connector& connector) {
  PeerRecord record;
  static_cast<ProcessName&>(record) = this_process();
  record.world = request.world;
  record.machine = boot_id();
  record.unix_name = connector.unix_name();
  record.transport = request.options.transport;
  for (const char* name : kAgreed) {
    record.agreed.append(record.agreed.empty() ? "" : " ").append(name).append("=");
    record.agreed += get_field(request.options, name);
  }
  record.communicator = random_u64();
  record.constants = request.constants;
  record.cores = available_cores();
  return record;
}

// Raises the error of an event that this rank sees. The text has the event, the observer and the
// advice.
[[noreturn]] void raise_seen(const RendezvousRequest& request, Failure failure,
                             const std::string& advice) {
  failure.message =
      report_of(failure, request.rank, "group '" + request.name + "'") + ". " + advice;
  raise(failure);
}

// "1", or "1 (global rank 5)".
std::string short_name(const RendezvousRequest& request, int rank) {
  const auto index = static_cast<std::size_t>(rank);
  const auto& global = request.global_ranks;
  const bool same = index >= global.size() || global[index] == rank;
  return std::to_string(rank) +
         (same ? "" : " (global rank " + std::to_string(global[index]) + ")");
}

[[noreturn]] void raise_missing(const RendezvousRequest& request, const RendezvousStore& store,
                                const std::vector<int>& missing, const std::string& event) {
  std::string ranks;
  for (const int rank : missing) ranks += (ranks.empty() ? "" : ", ") + short_name(request, rank);
  std::string advice =
      "Check that all ranks were started with this store and world size, and look at the output of "
      "those that are missing.";
  if (store.predecessor()) {
    advice += " Rank " + std::to_string(request.rank) + " has used this store before from " +
              to_string(*store.predecessor()) +
              ": if that process still runs, two processes have the same rank.";
  }
  raise_seen(request,
             make_failure(ErrorKind::kRendezvous,
                          (missing.size() == 1 ? "rank " : "ranks ") + ranks + " of " +
                              std::to_string(request.world) + " " + event,
                          missing.front()),
             advice);
}

// Reads the value that each rank wrote, in the order of ranks. `take` gets each value as soon as it
// is there. The error names every rank whose value is missing at the deadline, not only the first.
void gather(const RendezvousRequest& request, RendezvousStore& store, const char* what,
            const std::string& if_missing,
            const std::function<void(int rank, const std::string& text)>& take) {
  std::vector<int> missing;
  for (int rank = 0; rank < request.world; ++rank) {
    const auto text = store.wait(what, rank, missing.empty() ? request.deadline : now_ns());
    if (text) {
      take(rank, *text);
    } else {
      missing.push_back(rank);
    }
  }
  if (!missing.empty()) raise_missing(request, store, missing, if_missing);
}

void check_agrees(const RendezvousRequest& request, int rank, const PeerRecord& record,
                  const PeerRecord& first) {
  if (record.world != request.world) {
    raise_seen(request,
               make_failure(ErrorKind::kRendezvous,
                            name_of_rank(rank, record) + " has a world of " +
                                std::to_string(record.world) + " ranks, and rank " +
                                std::to_string(request.rank) + " (" + to_string(this_process()) +
                                ") one of " + std::to_string(request.world),
                            rank),
               "Start every rank with the same world size.");
  }
  if (record.agreed != first.agreed) {
    raise_seen(
        request,
        make_failure(ErrorKind::kMismatch,
                     "the ranks have different options: " + name_of_rank(0, first) + " has " +
                         first.agreed + ", " + name_of_rank(rank, record) + " has " + record.agreed,
                     rank),
        "Give every rank the same, in the environment (FASTGPU_...) or by the group's pg_options.");
  }
}

// The value that a rank wrote; its error names the rank.
template <typename Parse>
auto parsed(const RendezvousRequest& request, int rank, const std::string& text, Parse parse) {
  try {
    return parse(text);
  } catch (const RendezvousError& error) {
    raise_seen(request,
               make_failure(ErrorKind::kRendezvous,
                            "rank " + std::to_string(rank) + ": " + error.what(), rank),
               kSameVersion);
  }
}

std::vector<PeerRecord> gather_records(const RendezvousRequest& request, RendezvousStore& store) {
  std::vector<PeerRecord> records;
  gather(request, store, "rank", "did not join in time", [&](int rank, const std::string& text) {
    records.push_back(parsed(request, rank, text, record_from_text));
    const auto index = static_cast<std::size_t>(rank);
    if (index < request.global_ranks.size()) {
      records.back().global_rank = request.global_ranks[index];
    }
    check_agrees(request, rank, records.back(), records.front());
  });
  return records;
}

std::vector<int> gather_leaders(const RendezvousRequest& request, RendezvousStore& store) {
  std::vector<int> leaders;
  const auto take = [&](int rank, const std::string& text) {
    int leader = 0;
    if (!parse_number(text, 0, rank, leader)) {
      raise_seen(
          request,
          make_failure(ErrorKind::kRendezvous,
                       "rank " + std::to_string(rank) + " wrote the leader " + in_quotes(text) +
                           " to the store, not a rank from 0 to " + std::to_string(rank),
                       rank),
          kSameVersion);
    }
    leaders.push_back(leader);
  };
  gather(request, store, "leader", kFellSilent, take);
  return leaders;
}

// The lowest rank whose memory this rank can map; this rank, if there is none below it.
int find_leader(const RendezvousRequest& request, const std::vector<PeerRecord>& records,
                Connector& connector) {
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
            in_quotes("these ranks run on this machine, but in another container or network "
                      "namespace, so their memory cannot be mapped: TCP is used instead"));
  }
  return leader;
}

// This and check_reachable(): every rank checks all records, so all ranks raise the same error and
// none is left waiting.
void check_transports(const RendezvousRequest& request, const Peers& peers) {
  const std::vector<PeerRecord>& records = peers.records;
  for (std::size_t rank = 0; rank < records.size(); ++rank) {
    if (records[rank].transport != Transport::kShm) continue;
    for (std::size_t peer = 0; peer < records.size(); ++peer) {
      if (peers.leaders[peer] == peers.leaders[rank]) continue;
      std::string why = " does not share memory with it";
      if (records[peer].machine != records[rank].machine) why = " runs on another machine";
      if (records[peer].transport == Transport::kTcp) why = " has the transport tcp";
      raise_seen(request,
                 make_failure(ErrorKind::kRendezvous,
                              name_of_rank(static_cast<int>(rank), records[rank]) +
                                  " has the transport shm, but " +
                                  name_of_rank(static_cast<int>(peer), records[peer]) + why,
                              static_cast<int>(peer)),
                 "Give both the transport auto (FASTGPU_TRANSPORT, or the option 'transport').");
    }
  }
}

void check_reachable(const RendezvousRequest& request, const Peers& peers) {
  for (std::size_t rank = 0; rank < peers.records.size(); ++rank) {
    const PeerRecord& record = peers.records[rank];
    const auto elsewhere = [&](const PeerRecord& peer) { return peer.machine != record.machine; };
    const auto local = [](const Endpoint& endpoint) { return is_loopback(endpoint.address); };
    if (std::ranges::none_of(peers.records, elsewhere)) return;
    if (!std::ranges::all_of(peers.endpoints[rank], local)) continue;
    const auto number = static_cast<int>(rank);
    raise_seen(request,
               make_failure(
                   ErrorKind::kRendezvous,
                   name_of_rank(number, record) + " has no address that another machine can reach",
                   number),
               "Set FASTGPU_INTERFACE there.");
  }
}

// Listens on each address; it may fail for some, but not for all.
std::vector<Endpoint> listen_on(const std::vector<std::string>& addresses,
                                const RendezvousRequest& request, Connector& connector) {
  std::vector<Endpoint> endpoints;
  std::exception_ptr first_error;
  for (const std::string& address : addresses) {
    if (endpoints.size() == kMaxEndpoints) break;
    try {
      endpoints.push_back({address, connector.listen(address, request.options.port_range)});
    } catch (const OutOfResourcesError&) {
      throw;
    } catch (const CommError& error) {
      log(LogLevel::kInfo, "not_listening", "reason=" + in_quotes(error.what()));
      if (!first_error) first_error = std::current_exception();
    }
  }
  if (endpoints.empty() && first_error) std::rethrow_exception(first_error);
  return endpoints;
}

std::vector<std::vector<Endpoint>> exchange_endpoints(const RendezvousRequest& request,
                                                      const std::vector<std::string>& addresses,
                                                      RendezvousStore& store,
                                                      Connector& connector) {
  store.set("endpoints", to_text(listen_on(addresses, request, connector)));
  std::vector<std::vector<Endpoint>> endpoints;
  gather(request, store, "endpoints", kFellSilent, [&](int rank, const std::string& text) {
    endpoints.push_back(parsed(request, rank, text, endpoints_from_text));
  });
  return endpoints;
}

std::vector<PeerAddress> processes_of(const std::vector<PeerRecord>& records) {
  std::vector<PeerAddress> processes(records.size());
  for (std::size_t rank = 0; rank < records.size(); ++rank) {
    processes[rank].unix_name = records[rank].unix_name;
  }
  return processes;
}

// Finds out who reaches whom by shared memory, and the TCP addresses if that is not everybody.
void find_ways(const RendezvousRequest& request, RendezvousStore& store, Connector& connector,
               const std::vector<std::string>& addresses, Peers& peers) {
  store.set("leader", std::to_string(find_leader(request, peers.records, connector)));
  peers.leaders = gather_leaders(request, store);
  check_transports(request, peers);
  peers.endpoints.resize(peers.records.size());
  if (std::ranges::all_of(peers.leaders, [](int leader) { return leader == 0; })) return;
  peers.endpoints = exchange_endpoints(request, addresses, store, connector);
  check_reachable(request, peers);
}

}  // namespace

Peers rendezvous(const RendezvousRequest& request, RendezvousStore& store, Connector& connector) {
  // First, so that a wrong value is an error even where no address is needed.
  const std::vector<std::string> addresses = own_addresses(request);
  Peers peers;
  connector.expect_connections(connections_of(request));
  store.set("rank", to_text(own_record(request, connector)));
  peers.records = gather_records(request, store);
  peers.member = {.communicator = peers.records[0].communicator, .rank = request.rank};
  connector.expect(peers.member, processes_of(peers.records));
  try {
    find_ways(request, store, connector, addresses, peers);
  } catch (...) {
    connector.detach(peers.member, "");
    throw;
  }
  return peers;
}

}  // namespace fastgpu
