// attention_tiles.metal: attention.metal on the matrix units, for float16 and bfloat16 and heads of 64 and 128; arguments
// and results are the same.
//
// A threadgroup takes SPAN pages and TILE rows of q, at most 8; a simdgroup a share of the keys, 16 at a time. What that
// costs does not depend on the number of rows, and neither do a row's bits.
#include "attention_turn.metal"
#include "attention_parts.metal"
#include "fence.metal"

// ---- body
  constexpr bool FRESH = false;
  threadgroup uint fresh[1];

#include "attention_tiles_first.metal"

  uint given[D / 8];
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    given[i] = 0u;
  }
  if (own < uint(TILE)) {
    uint r = metal::min(tile * TILE + own, uint(R - 1));  // rows past the end: computed, not stored
    load_chunks<8, 32>(q + ((size_t(row) * KV + head) * R + r) * D + column * 4, given);
  }

#include "attention_tiles_walk.metal"
#include "attention_last.metal"
