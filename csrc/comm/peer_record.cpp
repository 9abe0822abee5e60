#include "comm/peer_record.h"

#include <unistd.h>

#include <array>
#include <limits>
#include <map>
#include <sstream>

#include "base/call.h"
#include "base/log.h"
#include "base/text.h"

namespace fastgpu {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();
constexpr std::size_t kExcerptBytes = 200;  // an error shows so much of a wrong value
constexpr std::size_t kReasonBytes = 4000;

// The fields of a text. take() removes a field, so that the rest is unknown.
class TextFields {
 public:
  explicit TextFields(const std::string& text) : text_(text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      const std::size_t equals = line.find('=');
      if (equals == std::string::npos) refuse("the line " + in_quotes(line) + " has no '='");
      values_[line.substr(0, equals)].push_back(line.substr(equals + 1));
    }
  }

  [[noreturn]] void refuse(const std::string& why) const {
    raise(ErrorKind::kRendezvous, "its record at the store cannot be used: " + why + ", in " +
                                      in_quotes(cut(text_, kExcerptBytes)));
  }

  void take_version() {
    const int version = take_number("version", 0, kMaxInt);
    if (version == kProtocolVersion) return;
    refuse("its version is " + std::to_string(version) + ", and this rank's is " +
           std::to_string(kProtocolVersion));
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
      refuse("'" + name + "' is " + in_quotes(text) + ", not a number from " +
             std::to_string(least) + " to " + std::to_string(most));
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

}  // namespace

ProcessName this_process() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return {.host = printable(name.data()), .pid = ::getpid()};
}

std::string to_string(const ProcessName& process) {
  return "host " + process.host + ", pid " + std::to_string(process.pid);
}

std::string name_of_rank(int rank, const ProcessName& process) {
  const int global = process.global_rank;
  const bool same = global == kNoRank || global == rank;
  return "rank " + std::to_string(rank) + " (" +
         (same ? "" : "global rank " + std::to_string(global) + ", ") + to_string(process) + ")";
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1";
}

std::string to_text(const PeerRecord& record) {
  std::ostringstream text;
  text << "version=" << kProtocolVersion << "\nhost=" << record.host << "\npid=" << record.pid
       << "\nworld=" << record.world << "\nmachine=" << record.machine
       << "\nunix=" << record.unix_name << "\ntransport=" << static_cast<int>(record.transport)
       << "\nagreed=" << record.agreed << "\ncommunicator=" << record.communicator
       << "\nconstants=" << record.constants << "\n";
  for (const int core : record.cores) text << "core=" << core << "\n";
  return text.str();
}

PeerRecord record_from_text(const std::string& text) {
  TextFields fields(text);
  fields.take_version();
  PeerRecord record;
  record.host = fields.take("host");
  record.pid = fields.take_number("pid", 1, kMaxInt);
  record.world = fields.take_number("world", 1, kMaxWorld);
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
  fields.check_nothing_left();
  return record;
}

std::string to_text(const SetUpFailure& failure) {
  std::ostringstream text;
  text << "version=" << kProtocolVersion << "\nhost=" << failure.host << "\npid=" << failure.pid
       << "\nrank=" << failure.rank << "\nkind=" << static_cast<int>(failure.kind)
       << "\nreason=" << printable(cut(failure.reason, kReasonBytes)) << "\n";
  return text.str();
}

SetUpFailure set_up_failure_from_text(const std::string& text) {
  TextFields fields(text);
  fields.take_version();
  SetUpFailure failure;
  failure.host = fields.take("host");
  failure.pid = fields.take_number("pid", 1, kMaxInt);
  failure.rank = fields.take_number("rank", 0, kMaxWorld - 1);
  failure.kind =
      static_cast<ErrorKind>(fields.take_number("kind", 0, static_cast<int>(kLastErrorKind)));
  failure.reason = fields.take("reason");
  fields.check_nothing_left();
  return failure;
}

std::string to_text(const std::vector<Endpoint>& endpoints) {
  std::string text;
  for (const Endpoint& endpoint : endpoints) {
    text += "endpoint=" + std::to_string(endpoint.port) + " " + endpoint.address + "\n";
  }
  return text;
}

std::vector<Endpoint> endpoints_from_text(const std::string& text) {
  TextFields fields(text);
  std::vector<Endpoint> endpoints;
  for (const std::string& endpoint : fields.take_all("endpoint")) {
    const std::size_t space = endpoint.find(' ');
    if (space == std::string::npos || space + 1 == endpoint.size()) {
      fields.refuse("'endpoint' is " + in_quotes(endpoint) + ", not a port and an address");
    }
    const int port = fields.number("endpoint", endpoint.substr(0, space), 1, kMaxPort);
    endpoints.push_back({endpoint.substr(space + 1), static_cast<uint16_t>(port)});
  }
  if (endpoints.empty() || endpoints.size() > kMaxEndpoints) {
    fields.refuse("it has " + std::to_string(endpoints.size()) + " 'endpoint', not 1 to " +
                  std::to_string(kMaxEndpoints));
  }
  fields.check_nothing_left();
  return endpoints;
}

}  // namespace fastgpu
