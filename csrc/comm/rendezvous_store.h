// The keys of one rendezvous in the store. A job may make its group again on the same store, so
// each rank counts how often it has used the store, and the count is a part of every key.
//
// A rank that cannot set up the group reports why, and every rank that waits for a key then raises
// that reason, instead of waiting for a rank that will not come.
//
// Ownership: borrows the store. Threading: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/clock.h"
#include "comm/peer_record.h"
#include "comm/store.h"

namespace fastgpu {

class RendezvousStore {
 public:
  // Counts this use. If the rank's earlier use of the store has not ended, reports there that the
  // rank has joined a second time.
  RendezvousStore(Store& store, int rank, int world, std::string group);

  // Writes this rank's value. `what` is "rank", "leader" or "endpoints".
  void set(const char* what, const std::string& value);
  // Waits for the value of a rank; nothing at the deadline. Raises the failure of a rank that
  // could not set up the group.
  std::optional<std::string> wait(const char* what, int rank, TimeNs deadline);

  // Tells the other ranks that this rank could not set up the group, unless an earlier failure is
  // reported. Waits until the ranks that have joined know, but for `limit` at most, because the
  // process that serves the store may end after this. Rank 0 often serves it, and waits for every
  // rank. Returns the failure to raise: if `failure` is kPeerLost, the report of another rank
  // replaces it, as that may say why the peer was lost.
  // `leave` is called once the failure is reported, so that whom it tells can read the report.
  Failure report(const Failure& failure, TimeNs limit = kSecond,
                 const std::function<void()>& leave = {}) noexcept;

  // The process that used the store last as the same rank, if another process did.
  const std::optional<ProcessName>& predecessor() const noexcept { return predecessor_; }

 private:
  std::string key(int64_t use, const char* what, int rank) const;
  void publish(int64_t use, const Failure& failure);
  void find_predecessor();
  std::optional<Failure> reported();

  Store& store_;
  const int rank_;
  const int world_;
  const std::string group_;  // its name, for errors
  const int64_t use_;        // from 1
  std::optional<ProcessName> predecessor_;
};

}  // namespace fastgpu
