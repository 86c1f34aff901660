// attention.metal: new tokens over some pages of their sequence's keys and values; attention_merge.metal joins the parts.
//
// q [B, KV * GROUP, NEW, D]; keys, values [KV, slots, D]; table [B, P SPAN] pages of each row; bounds [B, 2] positions: of
// the table's first slot, of the first new token; size [2] slots of the pool, ...; after: waited for, not read
// -> partial [B, KV, P, R, D], stats [B, KV, P, R, 2] (largest score, sum of weights), R = GROUP * NEW;
// with WHOLE, where one part is all there is: partial [B, NEW, KV * GROUP, D] the result, stats one element, 0.
//
// A threadgroup takes SPAN pages and TILE rows; a simdgroup a share of the keys, 32 / LANES keys at a time; a lane
// D / LANES elements of a head, in chunks of W neighbours. What a row gets depends on its own length alone: a part that
// no token of the row sees becomes zeros, which the merge does not read.
#include "attention_chunks.metal"

// ---- body
  constexpr int E = D / LANES;                          // elements of a lane
  constexpr int W = E % 8 == 0 ? 8 : (E % 4 == 0 ? 4 : 2);
  constexpr int TOGETHER = 32 / LANES;                  // keys of a simdgroup at once
  constexpr int R = GROUP * NEW;
  constexpr int KEYS = SPAN * PAGE / SIMDS;             // of a simdgroup
  constexpr int TILES = (R + TILE - 1) / TILE;

  constexpr bool FRESH = false;

  threadgroup T fresh[1];
  threadgroup float best[SIMDS * TILE];
  threadgroup float sums[SIMDS * TILE];
  threadgroup float parts[SIMDS * TILE * D];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint part = threadgroup_position_in_grid.x;
  uint head = threadgroup_position_in_grid.y / TILES;
  uint tile = threadgroup_position_in_grid.y % TILES;
  uint row = threadgroup_position_in_grid.z;
  uint own = lane / LANES;                              // which of the keys
  uint offset = lane % LANES * W;                       // of the lane's first chunk
  uint slots = uint(size[0]);
  uint pages = threadgroups_per_grid.x * SPAN;
  int first = bounds[2 * row] + int(part) * SPAN * PAGE;  // position of the part's first slot
  int position = bounds[2 * row + 1];
  bool seen = first < position + NEW && (WINDOW == 0 || first + SPAN * PAGE > position - WINDOW + 1);

  float query[TILE][E];
#pragma unroll
  for (int t = 0; t < TILE; t++) {
    uint r = metal::min(tile * TILE + t, uint(R - 1));  // rows past the end: computed, not stored
    T given[E];
    load_chunks<W, LANES * W>(q + ((size_t(row) * KV + head) * R + r) * D + offset, given);
#pragma unroll
    for (int e = 0; e < E; e++) {
      query[t][e] = float(given[e]) * as_type<float>(SCALE);
    }
  }

#include "attention_walk.metal"
