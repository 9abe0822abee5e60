#include "plan/builders/tree.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace fastgpu {
namespace {

// A node of the in-order tree over the numbers 1 .. size; 0 for no node. Odd numbers are leaves.
// The lowest set bit of a number gives the node's height. Where a right child would be larger than
// `size`, the first left descendant that is not takes its place.
//
//                    8                 size 10
//              4           10
//           2     6      9
//          1 3   5 7
struct Node {
  int parent = 0;
  int left = 0;
  int right = 0;
};

Node node_of(int number, int size) {
  const int bit = number & -number;
  Node node;
  node.parent = (number ^ bit) | (bit << 1);
  if (node.parent > size) node.parent = number ^ bit;
  if (bit == 1) return node;
  node.left = number - bit / 2;
  int reach = bit / 2;
  while (reach > 0 && number + reach > size) reach /= 2;
  if (reach > 0) node.right = number + reach;
  return node;
}

// The numbers of the ranks in a tree. The second tree is the mirror image of the first if the size
// is even, and is shifted by one rank if it is odd. In either case the even numbers, which are
// inner nodes, go to ranks that are leaves of the first tree.
struct Numbering {
  int size;
  int which;

  bool mirrored() const { return size % 2 == 0; }
  int number_of(int rank) const {
    if (which == 0) return rank + 1;
    return mirrored() ? size - rank : (rank + size - 1) % size + 1;
  }
  int rank_of(int number) const {
    if (number == 0) return -1;
    if (which == 0) return number - 1;
    return mirrored() ? size - number : number % size;
  }
};

}  // namespace

// Sanders, Speck and Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and
// scan" (2009).
TreePlace place_in_tree(int rank, int size, int which) {
  const Numbering numbering{size, which};
  const Node node = node_of(numbering.number_of(rank), size);
  return {numbering.rank_of(node.parent),
          {numbering.rank_of(node.left), numbering.rank_of(node.right)}};
}

int top_of_tree(int size, int which) {
  const auto top = static_cast<int>(std::bit_floor(static_cast<unsigned>(size)));
  return Numbering{size, which}.rank_of(top);
}

namespace {

// The ranks of the world that this rank exchanges frames with.
struct Neighbours {
  int parent = -1;
  std::vector<int> children;
};

Neighbours neighbours_in(const TreePlace& place) {
  Neighbours found{place.parent, {}};
  for (const int child : place.children) {
    if (child >= 0) found.children.push_back(child);
  }
  return found;
}

// The tree over all ranks but the root. The root is the parent of its top.
//
//        root --- top --- ...
//
Neighbours neighbours_of_rooted(const PlanRequest& request, int lane) {
  const int others = request.world - 1;
  const auto rank_of = [&](int member) { return (request.root + 1 + member) % request.world; };
  if (request.rank == request.root) return {-1, {rank_of(top_of_tree(others, lane % 2))}};
  const int me = shifted(request.rank, -request.root, request.world) - 1;
  Neighbours found = neighbours_in(place_in_tree(me, others, lane % 2));
  found.parent = found.parent < 0 ? request.root : rank_of(found.parent);
  for (int& child : found.children) child = rank_of(child);
  return found;
}

ChunkedRegion chunks_of(const LaneContext& context, const Region& region) {
  return {region, context.request.chunk_bytes, context.request.element_size};
}

// The number of hops from a rank to the top.
int depth_of(int rank, int size, int which) {
  int hops = 0;
  while ((rank = place_in_tree(rank, size, which).parent) >= 0) ++hops;
  return hops;
}

}  // namespace

// Chunks rise through the tree, are reduced on the way, and fall through the same tree. A rank
// returns a chunk `lag` chunks after it sent it up, so both directions are busy in between.
//
//        rise(c): children --> me (reduce) --> parent      fall(c): parent --> me --> children
//
// 2 log2 n hops per chunk. An inner rank sends up to 3 S bytes (1 up, 2 down) and a leaf sends S.
// With lanes on both trees every rank sends about 2 S.
// Order: (mine + left) + right, from the leaves up.
// The lag is the number of hops to the top and back. The top has lag 0 and returns a chunk at once;
// a rank below does not wait for a chunk that cannot have come back yet. With the same lag on all
// ranks, every chunk would wait for a round trip.
// No write meets a pending send: the sum of a chunk contains this rank's part, so the parent has
// received this rank's send before the sum arrives.
void tree_all_reduce(LaneContext& context) {
  const PlanRequest& request = context.request;
  const Neighbours tree =
      neighbours_in(place_in_tree(request.rank, request.world, context.lane % 2));
  const ChunkedRegion chunks = chunks_of(context, context.data());
  const auto rise = [&](const Region& chunk) {
    for (const int child : tree.children) context.steps.recv_reduce(child, chunk);
    if (tree.parent >= 0) context.steps.send(tree.parent, chunk);
  };
  const auto fall = [&](const Region& chunk) {
    if (tree.parent >= 0) context.steps.recv(tree.parent, chunk);
    for (const int child : tree.children) context.steps.send(child, chunk);
  };
  const int64_t lag = int64_t{2} * depth_of(request.rank, request.world, context.lane % 2);
  for (int64_t chunk = 0; chunk < chunks.count() + lag; ++chunk) {
    if (chunk < chunks.count()) rise(chunks[chunk]);
    if (chunk >= lag) fall(chunks[chunk - lag]);
  }
}

// Chunks fall through the tree.
//
//        root --> top --> children --> ...
//
// log2(n - 1) + 1 hops per chunk. The root sends S bytes, an inner rank up to 2 S, a leaf none.
// With lanes on both trees, every rank but the root sends about S.
void tree_broadcast(LaneContext& context) {
  const Neighbours tree = neighbours_of_rooted(context.request, context.lane);
  const ChunkedRegion chunks = chunks_of(context, context.data());
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    if (tree.parent >= 0) context.steps.recv(tree.parent, chunks[chunk]);
    for (const int child : tree.children) context.steps.send(child, chunks[chunk]);
  }
}

namespace {

// Chunks of scratch in which an inner rank sums, used in turn.
constexpr int64_t kReduceSlots = 4;

}  // namespace

// Chunks rise through the tree and are reduced on the way.
//
//        ... --> children --> top --> root
//
// log2(n - 1) + 1 hops per chunk. Every rank but the root sends S bytes.
// Order: (mine + left) + right, from the leaves up.
// The input must not change, so an inner rank sums in slots of scratch. A slot is written again
// when the parent has confirmed, by an empty frame, that it took the last chunk from the slot.
void tree_reduce(LaneContext& context) {
  LaneBuilder& steps = context.steps;
  const Neighbours tree = neighbours_of_rooted(context.request, context.lane);
  const Region input = context.input();
  const ChunkedRegion chunks = chunks_of(context, input);
  const ChunkedRegion results = chunks_of(context, context.data());
  const bool inner = tree.parent >= 0 && !tree.children.empty();
  std::array<Region, kReduceSlots> slots{};
  for (int64_t slot = 0; inner && slot < std::min(kReduceSlots, chunks.count()); ++slot) {
    slots[static_cast<std::size_t>(slot)] = context.scratch.allocate(chunks[0].size_bytes);
  }
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    const Region source = chunks[chunk];
    Region sum = tree.parent < 0 ? results[chunk] : source;
    if (inner) {
      sum = slots[static_cast<std::size_t>(chunk % kReduceSlots)];
      sum.size_bytes = source.size_bytes;
    }
    if (tree.parent >= 0 && chunk >= kReduceSlots) steps.recv_empty(tree.parent);
    if (sum != source) steps.copy(source, sum);
    for (const int child : tree.children) {
      steps.recv_reduce(child, sum);
      if (chunk + kReduceSlots < chunks.count()) steps.send_empty(child);
    }
    if (tree.parent >= 0) steps.send(tree.parent, sum);
  }
}

}  // namespace fastgpu
