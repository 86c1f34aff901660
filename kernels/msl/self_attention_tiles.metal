// self_attention_tiles.metal: self_attention.metal on the matrix units, as attention_tiles.metal is attention.metal.
#include "rotary.metal"
#include "attention_turn.metal"
#include "attention_parts.metal"
#include "fence.metal"

// ---- body
  constexpr int HEADS = KV * GROUP;
  constexpr int GIVEN = HEADS + (SAME ? 1 : 2) * KV;    // heads in a row of qkv
  constexpr bool FRESH = true;

  threadgroup uint fresh[NEW * 2 * D * int(sizeof(T)) / 4];
  threadgroup uint4 queries[TILE * D * int(sizeof(T)) / 16];

#include "attention_tiles_first.metal"

#include "self_attention_heads.metal"

  uint given[D / 8];
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    given[i] = 0u;
  }
  if (seen && own < uint(TILE)) {
    take_fresh<D, 8, 32, T>((threadgroup uint*)queries, int(own), column * 4, given);
  }

#include "attention_tiles_walk.metal"
#include "attention_last.metal"
