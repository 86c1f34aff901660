// self_attention_tiles.metal: self_attention.metal on the matrix units, as attention_tiles.metal is attention.metal.
#include "rotary.metal"
#include "attention_turn.metal"
#include "attention_parts.metal"
#include "fence.metal"

// ---- body
  constexpr int HEADS = KV * GROUP;
  constexpr int GIVEN = HEADS + (SAME ? 1 : 2) * KV;    // heads in a row of qkv
  constexpr bool FRESH = true;

  threadgroup uint4 fresh[NEW * 2 * D * int(sizeof(T)) / 16];

#include "attention_place.metal"
#include "attention_tiles_place.metal"
#include "self_attention_first.metal"
#include "attention_tiles_first.metal"
  constexpr bool EXCHANGED = DIMS > 0 && !has_pairs<DIMS, INTERLEAVED, P>();
  threadgroup float exchanged[EXCHANGED ? SIMDS * D : 1];
  threadgroup float* turning = exchanged + (EXCHANGED ? simd * D : 0);  // room for a head, where lanes exchange elements

#include "self_attention_heads.metal"

#include "attention_tiles_walk.metal"
#include "attention_last.metal"
