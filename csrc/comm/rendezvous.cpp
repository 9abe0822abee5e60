#include "comm/rendezvous.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"

namespace fastgpu {
namespace {

constexpr TimeNs kProbeLimit = 5 * kSecond;
constexpr std::size_t kMaxEndpoints = 8;
constexpr int kMaxCores = 1 << 16;
constexpr std::size_t kExcerptBytes = 200;  // an error shows so much of a wrong value
constexpr const char* kSameVersion = "does every rank run the same version of fastgpu_comm?";

// The options that determine the schedules.
constexpr std::array kAgreed = {"algorithm", "lanes", "deterministic"};

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
  record.communicator = random_u64();
  record.constants = request.constants;
  record.cores = available_cores();
  const uint16_t port = connector.listen(request.options.port_range);
  for (const std::string& address : own_addresses(request)) {
    if (record.endpoints.size() < kMaxEndpoints) record.endpoints.push_back({address, port});
  }
  return record;
}

template <typename Number>
bool parse_number(const std::string& text, Number least, Number most, Number& number) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, number);
  return result.ec == std::errc{} && result.ptr == end && number >= least && number <= most;
}

// The fields of a record's text. take() removes a field, so that the rest is unknown.
class RecordFields {
 public:
  explicit RecordFields(const std::string& text) : text_(text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      const std::size_t equals = line.find('=');
      if (equals == std::string::npos) refuse("the line " + quoted(line) + " has no '='");
      values_[line.substr(0, equals)].push_back(line.substr(equals + 1));
    }
  }

  [[noreturn]] void refuse(const std::string& why) const {
    raise(ErrorKind::kRendezvous, "its record at the store cannot be used: " + why + "; " +
                                      kSameVersion + " The record begins with " +
                                      quoted(text_.substr(0, kExcerptBytes)));
  }

  std::vector<std::string> take_all(const std::string& name) {
    std::vector<std::string> values = std::move(values_[name]);
    values_.erase(name);
    return values;
  }

  std::string take(const std::string& name) {
    std::vector<std::string> values = take_all(name);
    if (values.empty()) refuse("it has no '" + name + "'");
    if (values.size() > 1) refuse("it has several '" + name + "'");
    return std::move(values.front());
  }

  template <typename Number>
  Number number(const std::string& name, const std::string& text, Number least, Number most) const {
    Number value{};
    if (!parse_number(text, least, most, value)) {
      refuse("'" + name + "' is " + quoted(text) + ", not a number from " + std::to_string(least) +
             " to " + std::to_string(most));
    }
    return value;
  }

  template <typename Number>
  Number take_number(const std::string& name, Number least, Number most) {
    return number(name, take(name), least, most);
  }

  void check_nothing_left() const {
    if (!values_.empty()) refuse("it has an unknown '" + values_.begin()->first + "'");
  }

 private:
  const std::string text_;
  std::map<std::string, std::vector<std::string>> values_;
};

std::string key_of(const char* what, int rank) {
  return std::string("fastgpu/") + what + "/" + std::to_string(rank);
}

// "1", or "1 (global rank 5)".
std::string short_name(const RendezvousRequest& request, int rank) {
  const auto index = static_cast<std::size_t>(rank);
  const auto& global = request.global_ranks;
  const bool same = index >= global.size() || global[index] == rank;
  return std::to_string(rank) +
         (same ? "" : " (global rank " + std::to_string(global[index]) + ")");
}

std::string where(const RendezvousRequest& request) {
  return "rank " + short_name(request, request.rank) + ", group '" + request.name + "': ";
}

// The values that all ranks wrote under a key, by rank. The error names every rank whose value is
// missing at the deadline, not only the first.
std::vector<std::string> gather(const RendezvousRequest& request, Store& store, const char* what) {
  std::vector<std::string> values;
  std::string missing;
  std::string why;  // the store's error for the first missing rank
  for (int rank = 0; rank < request.world; ++rank) {
    try {
      values.push_back(
          store.get(key_of(what, rank), missing.empty() ? request.deadline : now_ns()));
    } catch (const RendezvousError& error) {
      if (missing.empty()) why = error.what();
      missing += (missing.empty() ? "" : ", ") + short_name(request, rank);
      values.emplace_back();
    }
  }
  if (!missing.empty()) {
    raise(ErrorKind::kRendezvous,
          where(request) + "of " + std::to_string(request.world) +
              " ranks these did not come in time: " + missing + " (" + why +
              "); check that they were started with this store and world size, and did not fail");
  }
  return values;
}

std::vector<PeerRecord> gather_records(const RendezvousRequest& request, Store& store) {
  std::vector<PeerRecord> records;
  for (const std::string& text : gather(request, store, "rank")) {
    try {
      records.push_back(record_from_text(text));
    } catch (const RendezvousError& error) {
      raise(ErrorKind::kRendezvous,
            where(request) + "rank " + std::to_string(records.size()) + ": " + error.what());
    }
    const std::size_t rank = records.size() - 1;
    if (rank < request.global_ranks.size()) records[rank].global_rank = request.global_ranks[rank];
  }
  return records;
}

std::vector<int> gather_leaders(const RendezvousRequest& request, Store& store) {
  std::vector<int> leaders;
  for (const std::string& text : gather(request, store, "leader")) {
    const int rank = static_cast<int>(leaders.size());
    int leader = 0;
    if (!parse_number(text, 0, rank, leader)) {
      raise(ErrorKind::kRendezvous,
            where(request) + "rank " + std::to_string(rank) + " wrote the leader " +
                quoted(text.substr(0, kExcerptBytes)) + " to the store, not a rank from 0 to " +
                std::to_string(rank) + "; " + kSameVersion);
    }
    leaders.push_back(leader);
  }
  return leaders;
}

void check_options(const std::vector<PeerRecord>& records) {
  for (std::size_t rank = 1; rank < records.size(); ++rank) {
    if (records[rank].agreed == records[0].agreed) continue;
    Failure failure;
    failure.kind = ErrorKind::kMismatch;
    failure.peer = static_cast<int>(rank);
    failure.message = "the ranks have different options: " + name_of_rank(0, records[0]) + " has " +
                      records[0].agreed + ", " + name_of_rank(failure.peer, records[rank]) +
                      " has " + records[rank].agreed +
                      "; give every rank the same (FASTGPU_ALGORITHM, FASTGPU_LANES, "
                      "FASTGPU_DETERMINISTIC, or the group's pg_options)";
    raise(failure);
  }
}

// The lowest rank whose memory this rank can map; this rank, if there is none below it.
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

}  // namespace

std::string to_text(const PeerRecord& record) {
  std::ostringstream text;
  text << "version=" << kProtocolVersion << "\nhost=" << record.host << "\npid=" << record.pid
       << "\nmachine=" << record.machine << "\nunix=" << record.unix_name
       << "\ntransport=" << static_cast<int>(record.transport) << "\nagreed=" << record.agreed
       << "\ncommunicator=" << record.communicator << "\nconstants=" << record.constants << "\n";
  for (const int core : record.cores) text << "core=" << core << "\n";
  for (const Endpoint& endpoint : record.endpoints) {
    text << "endpoint=" << endpoint.port << " " << endpoint.address << "\n";
  }
  return text.str();
}

PeerRecord record_from_text(const std::string& text) {
  constexpr int kMaxInt = std::numeric_limits<int>::max();
  RecordFields fields(text);
  const int version = fields.take_number("version", 0, kMaxInt);
  if (version != kProtocolVersion) {
    fields.refuse("its version is " + std::to_string(version) + ", and this rank's is " +
                  std::to_string(kProtocolVersion));
  }
  PeerRecord record;
  record.host = fields.take("host");
  record.pid = fields.take_number("pid", 1, kMaxInt);
  record.machine = fields.take("machine");
  record.unix_name = fields.take("unix");
  if (record.unix_name.empty()) fields.refuse("'unix' is empty");
  record.transport =
      static_cast<Transport>(fields.take_number("transport", 0, static_cast<int>(Transport::kTcp)));
  record.agreed = fields.take("agreed");
  record.communicator =
      fields.take_number<uint64_t>("communicator", 0, std::numeric_limits<uint64_t>::max());
  record.constants = fields.take("constants");
  for (const std::string& core : fields.take_all("core")) {
    record.cores.push_back(fields.number("core", core, 0, kMaxCores - 1));
  }
  if (record.cores.empty()) fields.refuse("it has no 'core'");
  for (const std::string& endpoint : fields.take_all("endpoint")) {
    const std::size_t space = endpoint.find(' ');
    if (space == std::string::npos || space + 1 == endpoint.size()) {
      fields.refuse("'endpoint' is " + quoted(endpoint) + ", not a port and an address");
    }
    const int port = fields.number("endpoint", endpoint.substr(0, space), 1, kMaxPort);
    record.endpoints.push_back({endpoint.substr(space + 1), static_cast<uint16_t>(port)});
  }
  if (record.endpoints.size() > kMaxEndpoints) {
    fields.refuse("it has more than " + std::to_string(kMaxEndpoints) + " 'endpoint'");
  }
  fields.check_nothing_left();
  return record;
}

std::string name_of_rank(int rank, const PeerRecord& record) {
  const bool same = record.global_rank == kNoRank || record.global_rank == rank;
  return "rank " + std::to_string(rank) + " (" +
         (same ? "" : "global rank " + std::to_string(record.global_rank) + ", ") + "host " +
         record.host + ", pid " + std::to_string(record.pid) + ")";
}

Peers rendezvous(const RendezvousRequest& request, Store& store, Connector& connector) {
  Peers peers;
  store.set(key_of("rank", request.rank), to_text(own_record(request, connector)));
  peers.records = gather_records(request, store);
  check_options(peers.records);
  const int leader = find_leader(request, peers.records, connector);
  store.set(key_of("leader", request.rank), std::to_string(leader));
  peers.leaders = gather_leaders(request, store);
  return peers;
}

}  // namespace fastgpu
