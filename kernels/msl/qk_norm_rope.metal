// qk_norm_rope.metal: the heads of a row of qkv, each normed and turned to its position. One simdgroup a head.
//
// qkv [B, NEW, (HEADS + copies of KV_HEADS) D]; position [B]; periods [DIMS / 2]; gains [.., D] of q, k and v, of those
// which have one; slots [B NEW]; keys, values [KV_HEADS, slots, D], written; size [2] slots of the pool, ...
// after: waited for, not read -> q [B, HEADS, NEW, D]. With SAME the row has no values: they are the keys before norm and rope.
//
#include "rotary.metal"

// ---- body
  constexpr int E = D / 32;                             // elements of a lane
  constexpr int ALL = HEADS + 2 * KV_HEADS;             // heads to be written
  constexpr int GIVEN = HEADS + (SAME ? 1 : 2) * KV_HEADS;

  threadgroup float heads[SIMDS * D];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint unit = threadgroup_position_in_grid.x * SIMDS + simd;
  bool inside = unit < uint(B * NEW * ALL);
  unit = inside ? unit : 0;
  uint head = unit % ALL;
  uint token = unit / ALL % NEW;
  uint row = unit / (ALL * NEW);
  int kind = head < uint(HEADS) ? 0 : (head < uint(HEADS + KV_HEADS) ? 1 : 2);   // q, k, v
  uint from = SAME && kind == 2 ? head - KV_HEADS : head;

  const device T* source = qkv + (size_t(row) * NEW + token) * (GIVEN * D) + from * D;
  const device T* weight = gain_of_kind<D, Q_GAIN, K_GAIN>(gains, kind);
  bool normed = of_kind(kind, Q_NORM, K_NORM, V_NORM);
  bool weighted = of_kind(kind, Q_GAIN, K_GAIN, V_GAIN);
  float at = float(position[row] + int(token)) * as_type<float>(SCALE);
  size_t slot = KV_HEADS > 0 ? size_t(uint(slots[row * NEW + token])) : 0;
  size_t capacity = KV_HEADS > 0 ? size_t(uint(size[0])) : 0;
  constexpr int P = neighbours_of<D, DIMS, INTERLEAVED>();
  bool turned = DIMS > 0 && kind < 2;
  Head<T, D, P> own_head;
  bring_head(own_head, source, weight, weighted, lane);
  Turn<DIMS, INTERLEAVED, P> angles;
  if (turned) {                                         // before the first sum: this is a chain of waits
    compute_turn(angles, at, periods, lane);
  }
  float v[E];
  turn_head(v, own_head, normed, weighted, turned, angles, as_type<float>(EPS), as_type<float>(MAGNITUDE), heads + simd * D, lane);
  if (inside) {
    if (kind == 0) {
      auto to = q + ((size_t(row) * HEADS + head) * NEW + token) * D;
#pragma unroll
      for (int e = 0; e < E; e++) {
        to[element_of<P>(e, lane)] = T(v[e]);
      }
    } else {
      uint own = kind == 1 ? head - HEADS : head - HEADS - KV_HEADS;
      size_t to = (size_t(own) * capacity + slot) * D;
      auto pool = kind == 1 ? keys : values;
#pragma unroll
      for (int e = 0; e < E; e++) {
        ((device T*)pool)[to + element_of<P>(e, lane)] = T(v[e]);
      }
    }
  }
