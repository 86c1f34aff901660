// self_attention.metal: qk_norm_rope.metal and attention.metal in one. New tokens' keys and values go to their slots, and
// their queries see some pages of their sequence.
//
// qkv [B, NEW, (KV GROUP + copies of KV) D]; turns [B, NEW, 2, DIMS / 2], see rotation.metal; gains [.., D] of
// q, k and v, of those which have one; where, keys, values, after, since, room, o: as attention.metal has them, the pools written.
#include "rotary.metal"
#include "attention_chunks.metal"
#include "attention_parts.metal"
#include "fence.metal"

// ---- body
  constexpr int HEADS = KV * GROUP;
  constexpr int GIVEN = HEADS + (SAME ? 1 : 2) * KV;    // heads in a row of qkv
  constexpr bool FRESH = true;

  threadgroup uint4 fresh[NEW * 2 * D * int(sizeof(T)) / 16];
  constexpr int PITCH = D;                              // of rows of q
  threadgroup uint4 queries[TILE * PITCH * int(sizeof(T)) / 16];

#include "attention_place.metal"
#include "self_attention_first.metal"
#include "attention_first.metal"
  threadgroup float* turning = parts + simd * D;        // room for a head

#include "self_attention_heads.metal"

  float query[TILE][E];
#pragma unroll
  for (int t = 0; t < TILE; t++) {
#pragma unroll
    for (int e = 0; e < E; e++) {
      float v = float(((threadgroup T*)queries)[t * PITCH + e / W * (LANES * W) + offset + e % W]);
      query[t][e] = v * as_type<float>(SCALE);
    }
  }

#include "attention_walk.metal"
#include "attention_last.metal"
