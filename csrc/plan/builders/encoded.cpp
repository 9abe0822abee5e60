#include "plan/builders/encoded.h"

#include "base/codec.h"

namespace fastgpu {
namespace {

// The steps of one rank in one lane. Every encoded frame that is sent has scratch of its own, so no
// step waits for an earlier frame to leave.
class EncodedTwoShot {
 public:
  EncodedTwoShot(LaneContext& context, const RankSubset& subset)
      : context_(context),
        steps_(context.steps),
        subset_(subset),
        shards_(context.split(context.data(), subset.size())),
        longest_(longest_shard()),
        received_(context.scratch.allocate(encoded_bytes_of(chunks_of(longest_)[0]))),
        own_copy_(subset.index > 0 ? context.scratch.allocate(chunks_of(longest_)[0].size_bytes)
                                   : Region{}) {}

  void send_contributions() {
    for (int64_t chunk = 0; chunk < most_chunks(); ++chunk) {
      for (int ahead = 1; ahead < subset_.size(); ++ahead) {
        const int owner = shifted(subset_.index, ahead, subset_.size());
        if (chunk < chunks_of(owner).count()) {
          steps_.send(rank_of(owner), encoded(chunks_of(owner)[chunk]));
        }
      }
    }
  }

  void sum_own_shard() {
    const ChunkedRegion chunks = chunks_of(subset_.index);
    for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
      add_in_order(chunks[chunk]);
      const Region sum = encoded(chunks[chunk]);
      for (int ahead = 1; ahead < subset_.size(); ++ahead) {
        steps_.send(rank_of(shifted(subset_.index, ahead, subset_.size())), sum);
      }
      steps_.decode(sum, chunks[chunk]);  // the owner, too, ends with the rounded sum
    }
  }

  void receive_sums() {
    for (int64_t chunk = 0; chunk < most_chunks(); ++chunk) {
      for (int ahead = 1; ahead < subset_.size(); ++ahead) {
        const int owner = shifted(subset_.index, -ahead, subset_.size());
        if (chunk < chunks_of(owner).count()) {
          const Region target = chunks_of(owner)[chunk];
          steps_.decode(receive(owner, target), target);
        }
      }
    }
  }

 private:
  int longest_shard() const {
    int longest = 0;
    for (int shard = 1; shard < shards_.parts(); ++shard) {
      if (shards_[shard].size_bytes > shards_[longest].size_bytes) longest = shard;
    }
    return longest;
  }
  int64_t most_chunks() const { return chunks_of(longest_).count(); }
  ChunkedRegion chunks_of(int shard) const {
    return {shards_[shard], context_.request.chunk_bytes, context_.request.element_size};
  }
  int rank_of(int member) const { return subset_.ranks[static_cast<std::size_t>(member)]; }
  uint64_t encoded_bytes_of(const Region& elements) const {
    return encoded_bytes(context_.request.codec, elements.size_bytes / sizeof(float));
  }
  Region encoded(const Region& elements) {
    const Region frame = context_.scratch.allocate(encoded_bytes_of(elements));
    steps_.encode(elements, frame);
    return frame;
  }
  Region receive(int member, const Region& elements) {
    const Region frame{received_.buffer, received_.offset_bytes, encoded_bytes_of(elements)};
    steps_.recv(rank_of(member), frame);
    return frame;
  }

  // Adds the members' contributions to `sum` in their order. This rank's own, which is there
  // already, is not rounded.
  void add_in_order(const Region& sum) {
    const Region own{own_copy_.buffer, own_copy_.offset_bytes, sum.size_bytes};
    if (subset_.index > 0) steps_.copy(sum, own);
    for (int member = 0; member < subset_.size(); ++member) {
      if (member != subset_.index) {
        const Region frame = receive(member, sum);
        member == 0 ? steps_.decode(frame, sum) : steps_.decode_reduce(frame, sum);
      } else if (member > 0) {
        steps_.copy_reduce(own, sum);
      }
    }
  }

  LaneContext& context_;
  LaneBuilder& steps_;
  const RankSubset& subset_;
  const Partition shards_;
  const int longest_;
  const Region received_;  // the frame that was received last
  const Region own_copy_;
};

}  // namespace

// Rank j owns shard j. Every rank encodes its part of each shard for the owner. The owner adds the
// decoded parts in rank order, in float32, and encodes the sum for every rank. So an element is
// rounded twice, however many ranks there are, and all ranks decode the same frames.
//
//     hop 1:  shard j of every rank, encoded --> j      hop 2:  j: the sum, encoded --> every rank
//
// 2 hops. Every rank sends 2(n - 1)/n * E bytes, E being the size of the encoded tensor. Shards are
// encoded chunk by chunk: the first frame travels while the second is encoded.
void encoded_two_shot(LaneContext& context, const RankSubset& subset) {
  if (context.data().size_bytes == 0) return;
  EncodedTwoShot two_shot(context, subset);
  two_shot.send_contributions();
  two_shot.sum_own_shard();
  two_shot.receive_sums();
}

}  // namespace fastgpu
