// attention_tiles.metal: attention.metal on the matrix units, for float16 and bfloat16 and heads of 64 and 128; arguments
// and results are the same.
//
// A threadgroup takes parts of SPAN pages and TILE rows of q, at most 8; a simdgroup a share of a part's keys, 16 at a time.
// What that costs does not depend on the number of rows, and neither do a row's bits.
#include "attention_turn.metal"
#include "attention_parts.metal"
#include "fence.metal"

// ---- body
  constexpr bool FRESH = false;
  threadgroup uint4 fresh[1];

#include "attention_place.metal"
#include "attention_tiles_place.metal"
#include "attention_tiles_first.metal"

  for (uint t = simd; t < uint(TILE); t += SIMDS) {
    uint r = metal::min(tile * TILE + t, uint(R - 1));  // rows past the end: computed, not stored
    const device T* from = q + ((size_t(row) * KV + head) * R + r) * D;
#pragma unroll
    for (int e = 0; e < D / 32; e++) {
      ((threadgroup T*)queries)[t * PITCH + lane + 32 * e] = from[lane + 32 * e];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

#include "attention_tiles_walk.metal"
#include "attention_last.metal"
