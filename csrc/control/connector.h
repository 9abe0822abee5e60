// The connector: how this process's ranks and others find each other and part. One control thread
// listens, dials, passes descriptors, and watches every link for its end; it never touches data, so
// a busy or sleeping engine does not keep peers from connecting.
//
// A *link* is a control connection from one rank of a communicator to another, dialled by the rank
// that first wants to send. Over it, or beside it, each lane's channel is opened by its sender.
// Ownership: one a process. Threading: calls from any thread; sinks are called on the control
// thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "control/link.h"
#include "memory/symmetric_heap.h"
#include "transport/channel.h"
#include "transport/shm/shm.h"
#include "transport/wait/poller.h"

namespace fastgpu {

// What a communicator hears. Called on the control thread; must not block, nor call the connector's
// waiting calls.
class ConnectionSink {
 public:
  virtual ~ConnectionSink() = default;
  virtual void on_sender(int peer, int lane, std::unique_ptr<SendChannel> channel) = 0;
  // Raises CommError for a lane that does not exist or is open: the connection is then closed.
  virtual void on_receiver(int peer, int lane, std::unique_ptr<RecvChannel> channel) = 0;
  // The peer left the group in order, or is lost, as `why` says ("its process ended").
  virtual void on_departed(int peer, bool in_order, const std::string& why) = 0;
  virtual void on_failed(int peer, const Failure& failure) = 0;
};

// How to reach a rank: by shared memory through its unix socket, else over TCP.
struct PeerAddress {
  bool shared_memory = false;
  std::string unix_name;
  std::vector<Endpoint> endpoints;
};

class Connector {
 public:
  Connector(Poller& engine, const SymmetricHeap& heap);
  ~Connector();
  Connector(const Connector&) = delete;
  Connector& operator=(const Connector&) = delete;

  const std::string& unix_name() const noexcept { return unix_name_; }
  // The port this process listens on, opened at the first call. Raises RendezvousError when no port
  // of the range is free, or when an earlier call's port lies outside it.
  uint16_t listen(const PortRange& range);
  // Whether memory of the process behind `unix_name` can be mapped here: tried, not guessed.
  bool probe(const std::string& unix_name, TimeNs deadline) const;

  // Takes part as `rank` of a communicator. Connections that came early are served now.
  void attach(uint64_t communicator, int rank, std::shared_ptr<ConnectionSink> sink,
              std::vector<PeerAddress> peers);
  // Opens the channel of one lane to a peer; the sink gets it, or hears of the peer's departure.
  void open(uint64_t communicator, int rank, int peer, int lane);
  // Tells every linked peer that this communicator failed.
  void fail(uint64_t communicator, int rank, const Failure& failure);
  // Tells every linked peer that this rank leaves, and forgets the communicator. Waits until the
  // messages are out, for at most a second: if the control thread is held up for longer, the sink,
  // which it shares, may be called a little later still.
  void detach(uint64_t communicator, int rank);

 private:
  enum class Role : uint8_t { kAccepted, kParked, kIncoming, kOutgoing, kStream, kLeaving };
  struct Entry {
    Role role = Role::kAccepted;
    ControlLink link;
    bool is_unix = false;
    uint64_t communicator = 0;
    int me = kNoRank;
    int peer = kNoRank;
    int lane = 0;                                      // kStream
    std::size_t endpoint = 0;                          // the endpoint being dialled (TCP)
    bool connected = true;                             // false while a TCP connect is under way
    std::shared_ptr<Doorbell> bell = nullptr;          // the peer's, once known (unix)
    std::shared_ptr<PeerSegments> segments = nullptr;  // kIncoming, unix
    std::vector<std::pair<int, UniqueFd>> waiting_rings = {};  // kOutgoing: until the welcome
    std::optional<ControlMessage> parked = std::nullopt;
  };
  struct PeerState {
    uint64_t outgoing = 0;  // entry of the link we dialled; 0: none
    bool linked = false;    // it has dialled a link to us
    uint32_t opened = 0;    // channels we opened to it
    uint32_t received = 0;  // channels it opened to us
    std::map<std::pair<int, pid_t>, std::weak_ptr<ShmEnd>> ends;  // by lane and process
    std::optional<uint32_t> leaves_after;  // it left, having opened this many
    bool departed = false;
    std::size_t link_endpoint = 0;  // the next one to try (TCP)
  };
  struct Member {
    std::shared_ptr<ConnectionSink> sink;
    std::vector<PeerAddress> addresses;
    std::map<int, PeerState> peers;
  };
  using MemberKey = std::pair<uint64_t, int>;

  // The control thread's; connector.cpp runs the loop, connector_links.cpp the conversations.
  void loop();
  void post(std::function<void()> command);
  void run_and_wait(const std::function<void()>& command, TimeNs deadline);
  void run_commands();
  uint64_t watch(Entry entry);
  void drop(uint64_t id);
  void accept_all(int listener, bool is_unix);
  void make_room_for_stranger();
  void on_event(uint64_t id, uint32_t events);

  static bool try_flush(Entry& entry);
  static UniqueFd dial_patiently(const std::string& name);
  bool finish_connect(uint64_t id, Entry& entry);
  void hand_over_stream(uint64_t id, Entry& entry);
  void redial(uint64_t id, int error);
  bool read_messages(uint64_t id, Entry& entry);
  bool handle(uint64_t id, Entry& entry, ControlMessage message);
  void handle_hello(Entry& entry, ControlMessage& message);
  void handle_welcome(Entry& entry, ControlMessage& message);
  void handle_ring(Entry& entry, ControlMessage& message);
  void handle_stream(uint64_t id, Entry& entry, const ControlMessage& message);
  void handle_leave(Entry& entry, const ControlMessage& message);
  void answer_probe(Entry& entry) const;
  void resume_parked(uint64_t communicator, int rank);
  bool identify(Entry& entry, ControlMessage& message);
  void on_closed(uint64_t id, const std::string& why);

  Member* member(uint64_t communicator, int rank);
  void dial_link(const MemberKey& key, Member& owner, int peer);
  void dial_stream(const MemberKey& key, Member& owner, int peer, int lane, std::size_t endpoint);
  void open_ring(Entry& entry, int lane);
  void make_sender(Entry& entry, int lane, UniqueFd ring);
  std::shared_ptr<ShmEnd> end_of(Member& owner, const Entry& entry, int lane);
  void count_received(const Entry& entry);
  void depart(const Entry& entry, bool in_order, const std::string& why);
  std::vector<UniqueFd> own_bell() const;

  Poller& engine_;
  const SymmetricHeap& heap_;
  const std::size_t most_strangers_;
  std::string unix_name_;
  UniqueFd unix_listener_;
  UniqueFd epoll_;
  UniqueFd wake_;

  // Guarded by mutex_.
  std::mutex mutex_;
  std::vector<std::function<void()>> commands_;
  bool stopping_ = false;
  UniqueFd tcp_listener_;
  uint16_t tcp_port_ = 0;

  // The control thread's.
  std::map<uint64_t, Entry> entries_;
  std::map<MemberKey, Member> members_;
  uint64_t next_id_;
  std::thread thread_;
};

}  // namespace fastgpu
