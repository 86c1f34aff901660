// packed_qk_norm_rope.metal: qk_norm_rope.metal for pages whose heads are packed: keys and values are packed as
// packed_pages.metal does it, out of the numbers that it would be given. One simdgroup a head.
//
// qkv, gains -> q: as there; where: as in attention.metal; turns: as in rotation.metal; keys, values, key_grids, value_grids,
// written: as in packed_pages.metal; after: waited for, not read. Queries stay as they are: attention turns them.
#include "rotary.metal"
#include "coding.metal"
#include "load_now.metal"

// ---- body
  constexpr int E = D / 32;                             // elements of a lane
  constexpr int ALL = HEADS + 2 * KV_HEADS;             // heads to be written
  constexpr int GIVEN = HEADS + (SAME ? 1 : 2) * KV_HEADS;
  constexpr int WORDS = D * BITS / 32;
  constexpr int GRIDS = 2 * D / GROUPED;

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
  size_t slots = size_t(uint(load_now(where)));         // of the pool
  uint slot = uint(load_now(where + 2 + 3 * B + row * NEW + token));
  constexpr int P = neighbours_of<D, DIMS, INTERLEAVED>();
  bool turned = DIMS > 0 && kind < 2;
  Head<T, D, P> own_head;
  bring_head(own_head, source, weight, weighted, lane);
  Turn<DIMS, INTERLEAVED, P> angles;
  if (turned) {                                         // before the first sum: this is a chain of waits
    bring_turn(angles, turns + (size_t(row) * NEW + token) * DIMS, lane);
  }
  float v[E];
  turn_head(v, own_head, normed, weighted, turned, angles, as_type<float>(EPS), as_type<float>(MAGNITUDE), heads + simd * D, lane);
  if (inside && kind == 0) {
    auto to = q + ((size_t(row) * HEADS + head) * NEW + token) * D;
#pragma unroll
    for (int e = 0; e < E; e++) {
      to[element_of<P>(e, lane)] = T(v[e]);
    }
  }
  if (inside && kind > 0) {
    uint own = kind == 1 ? head - HEADS : head - HEADS - KV_HEADS;
    size_t to = own * slots + slot;
#pragma unroll
    for (int e = 0; e < E; e++) {
      v[e] = float(T(v[e]));
    }
    spread<P>(v, heads + simd * D, lane);
    if (TURNED) {
      turn<D>(v, lane);
    }
    pack_head<D, BITS, GROUPED, T>(v, (device uint*)(kind == 1 ? keys : values) + to * WORDS,
                                (device T*)(kind == 1 ? key_grids : value_grids) + to * GRIDS, lane);
  }
