// attention.metal: new tokens over some pages of their sequence's keys and values, and the parts of a sequence joined: with
// LAST by the threadgroup that ends last, else by attention_merge.metal.
//
// q [B, KV * GROUP, NEW, D]; keys, values [KV, slots, D]; where: size [2], the slots of the pool, ...; position [B]; bounds
// [B, 2] positions: of the table's first slot, of the first new token; slots [B, NEW] of the new tokens; table [P SPAN, B]
// pages of each row; after, since: waited for, not read; room: with LAST, COUNTERS zeros to count in, which they are again in the
// end, and room for parts -> o [B, NEW, KV * GROUP, D], or without LAST, unless one part is all there is (WHOLE), the parts: sums
// [B, KV, P, R, D], then stats [B, KV, P, R, 2] (largest score, sum of weights), R = GROUP * NEW, of type OUT.
//
// A threadgroup takes parts of SPAN pages, as far apart as there are threadgroups along z, and TILE rows; a simdgroup a share
// of a part's keys, 32 / LANES keys at a time; a lane D / LANES elements of a head, in chunks of W neighbours. What a row gets
// depends on its own length alone. Of parts that no token of the row sees nothing is written, nor read.
#include "attention_chunks.metal"
#include "attention_parts.metal"
#include "fence.metal"

// ---- body
  constexpr bool FRESH = false;
  threadgroup uint4 fresh[1];

#include "attention_place.metal"
#include "attention_first.metal"

  float query[TILE][E];
#pragma unroll
  for (int t = 0; t < TILE; t++) {
    uint r = metal::min(tile * TILE + t, uint(R - 1));  // rows past the end: computed, not stored
    uint given[WORDS];
    load_chunks<W, LANES * W>(q + ((size_t(row) * KV + head) * R + r) * D + offset, given);
#pragma unroll
    for (int e = 0; e < E; e++) {
      query[t][e] = held<T>(given, e) * as_type<float>(SCALE);
    }
  }

#include "attention_walk.metal"
#include "attention_last.metal"
