#include "plan/builders/encoded.h"

#include <algorithm>

#include "base/codec.h"

namespace fastgpu {
namespace {

// The steps of one rank in one lane. Every encoded frame that is sent has scratch of its own, so no
// step waits for an earlier frame to leave.
//
// Shard j of the lane belongs to local rank j on every host. Part h of a shard is summed by its
// owner on host h. Parts move in chunks.
class EncodedAllReduce {
 public:
  EncodedAllReduce(LaneContext& context, const Hosts& hosts)
      : context_(context),
        steps_(context.steps),
        hosts_(hosts),
        local_(hosts.locals()),
        remote_{hosts.counterparts, hosts.host},
        shards_(context.split(context.data(), hosts.shards)) {
    uint64_t longest = 0;
    for (int owner = 0; owner < hosts.shards; ++owner) {
      for (int host = 0; host < remote_.size(); ++host) {
        const ChunkedRegion chunks = chunks_of(owner, host);
        most_chunks_ = std::max(most_chunks_, chunks.count());
        if (chunks.count() > 0) longest = std::max(longest, chunks[0].size_bytes);
      }
    }
    if (!hosts.owns_shard()) return;
    received_ = context.scratch.allocate(encoded_bytes_of({Buffer::kData, 0, longest}));
    if (local_.index > 0 || remote_.index > 0) own_copy_ = context.scratch.allocate(longest);
  }

  // Inside the host: sends the owners their shards of this rank's data.
  void send_to_owners() {
    if (local_.size() == 1) return;
    for (int64_t chunk = 0; chunk < most_chunks_; ++chunk) {
      for (int ahead = 1; ahead < remote_.size(); ++ahead) send_to_owners(host_at(ahead), chunk);
    }
    for (int64_t chunk = 0; chunk < most_chunks_; ++chunk) send_to_owners(hosts_.host, chunk);
  }

  // Adds up this rank's shard over the host, in the order of send_to_owners(), and sends the host's
  // sums to the ranks that add them up over the hosts.
  void send_host_sums() {
    for (int64_t chunk = 0; chunk < most_chunks_; ++chunk) {
      for (int ahead = 1; ahead < remote_.size(); ++ahead) {
        const int host = host_at(ahead);
        if (!has(hosts_.local_index, host, chunk)) continue;
        const Region part = chunks_of(hosts_.local_index, host)[chunk];
        add_in_host(part);
        steps_.send(counterpart(host), encoded(part));
      }
    }
    for (int64_t chunk = 0; has(hosts_.local_index, hosts_.host, chunk); ++chunk) {
      add_in_host(chunks_of(hosts_.local_index, hosts_.host)[chunk]);
    }
  }

  void sum_own_part() {
    for (int64_t chunk = 0; chunk < most_chunks_; ++chunk) {
      if (has(hosts_.local_index, hosts_.host, chunk)) {
        const Region part = chunks_of(hosts_.local_index, hosts_.host)[chunk];
        add_over_hosts(part);
        const Region sum = encoded(part);
        for (int ahead = 1; ahead < remote_.size(); ++ahead) {
          steps_.send(counterpart(host_at(ahead)), sum);
        }
        steps_.decode(sum, part);  // the owner, too, ends with the rounded sum
      }
      share_in_host(hosts_.host, chunk);
    }
  }

  void receive_sums() {
    for (int64_t chunk = 0; chunk < most_chunks_; ++chunk) {
      for (int ahead = 1; ahead < remote_.size(); ++ahead) {
        const int host = host_at(-ahead);
        if (has(hosts_.local_index, host, chunk)) {
          const Region part = chunks_of(hosts_.local_index, host)[chunk];
          steps_.decode(receive(host, part), part);
        }
        share_in_host(host, chunk);
      }
    }
  }

 private:
  ChunkedRegion chunks_of(int owner, int host) const {
    return {context_.split(shards_[owner], remote_.size())[host], context_.request.chunk_bytes,
            context_.request.element_size};
  }
  // Whether local rank `owner` owns a shard whose part for `host` has that chunk.
  bool has(int owner, int host, int64_t chunk) const {
    return owner < hosts_.shards && chunk < chunks_of(owner, host).count();
  }
  int host_at(int distance) const { return shifted(hosts_.host, distance, remote_.size()); }
  int local_at(int distance) const { return shifted(local_.index, distance, local_.size()); }
  int local_rank(int index) const { return local_.ranks[static_cast<std::size_t>(index)]; }
  int counterpart(int host) const { return remote_.ranks[static_cast<std::size_t>(host)]; }

  uint64_t encoded_bytes_of(const Region& elements) const {
    return encoded_bytes(context_.request.codec, elements.size_bytes / sizeof(float));
  }
  Region encoded(const Region& elements) {
    const Region frame = context_.scratch.allocate(encoded_bytes_of(elements));
    steps_.encode(elements, frame);
    return frame;
  }
  Region receive(int host, const Region& elements) {
    const Region frame{received_.buffer, received_.offset_bytes, encoded_bytes_of(elements)};
    steps_.recv(counterpart(host), frame);
    return frame;
  }

  void send_to_owners(int host, int64_t chunk) {
    for (int ahead = 1; ahead < local_.size(); ++ahead) {
      const int owner = local_at(ahead);
      if (!has(owner, host, chunk)) continue;
      const Region part = chunks_of(owner, host)[chunk];
      steps_.add_residual(part);  // only the owner encodes it
      steps_.send(local_rank(owner), part);
    }
  }

  // Inside the host: passes the chunk of the sum on, and receives those of the other owners.
  void share_in_host(int host, int64_t chunk) {
    for (int ahead = 1; ahead < local_.size() && has(local_.index, host, chunk); ++ahead) {
      steps_.send(local_rank(local_at(ahead)), chunks_of(local_.index, host)[chunk]);
    }
    for (int ahead = 1; ahead < local_.size(); ++ahead) {
      const int owner = local_at(-ahead);
      if (has(owner, host, chunk)) steps_.recv(local_rank(owner), chunks_of(owner, host)[chunk]);
    }
  }

  Region own_copy_of(const Region& part) const {
    return {own_copy_.buffer, own_copy_.offset_bytes, part.size_bytes};
  }

  // Replaces this rank's elements by the sum over its host, in rank order.
  void add_in_host(const Region& part) {
    if (local_.size() == 1) return;
    const Region own = local_.index > 0 ? own_copy_of(part) : part;
    if (own != part) steps_.copy(part, own);
    reduce_in_order(steps_, local_, own, part);
  }

  // Adds the hosts' contributions to `sum` in their order. This host's own is in `sum` already, and
  // is not rounded.
  void add_over_hosts(const Region& sum) {
    const Region own = own_copy_of(sum);
    if (remote_.index > 0) steps_.copy(sum, own);
    for (int host = 0; host < remote_.size(); ++host) {
      if (host != remote_.index) {
        const Region frame = receive(host, sum);
        host == 0 ? steps_.decode(frame, sum) : steps_.decode_reduce(frame, sum);
      } else if (host > 0) {
        steps_.copy_reduce(own, sum);
      }
    }
    steps_.mark_complete();
  }

  LaneContext& context_;
  LaneBuilder& steps_;
  const Hosts& hosts_;
  const RankSubset local_;
  const RankSubset remote_;  // by host
  const Partition shards_;
  int64_t most_chunks_ = 0;
  Region received_;  // the frame that was received last
  Region own_copy_;
};

}  // namespace

// With L ranks on the smallest of H hosts, local rank j < L owns shard j on its host, and the owner
// on host h sums up part h of the shard over the hosts.
//
//     host A   0   1        hop 1:  0 -- 1, 2 -- 3: the sum over a host, in float32, at its owner
//              |   |        hop 2:  0 -- 2, 1 -- 3: part h of the host's sum, encoded --> host h
//     host B   2   3        hop 3:  0 -- 2, 1 -- 3: the sum over all hosts, encoded --> every host
//                           hop 4:  0 -- 1, 2 -- 3: the decoded sum, in float32
//
// An element is rounded twice, before hop 2 and before hop 3, however many hosts there are. All
// ranks have what an owner decoded from the same frames, so they end with the same bits. Order: the
// ranks of a host in rank order, then the hosts.
//
// For hosts of m ranks: 4 hops, or 2 if m = 1. A rank sends 2(H - 1)/H * E/m bytes between hosts, E
// being the size of the encoded tensor, and 2(m - 1)/m * S inside its host. A host sends 2(H - 1)/H
// * E; the direct algorithm over all n ranks sends m times as much. Parts move chunk by chunk: the
// first frame travels while the second is encoded.
//
// Hop 4 sends float32 and not the encoded bytes, because then one rank of a host decodes an
// element instead of all, and can write it into the memory of the others if that is shared.
void encoded_all_reduce(LaneContext& context, const Hosts& hosts) {
  if (context.data().size_bytes == 0) return;
  EncodedAllReduce all_reduce(context, hosts);
  all_reduce.send_to_owners();
  all_reduce.send_host_sums();
  all_reduce.sum_own_part();
  all_reduce.receive_sums();
}

}  // namespace fastgpu
