// packed_pages.metal: keys and values of new tokens packed, and written to their slots in place. A simdgroup a head.
//
// k, v [B, KV, NEW, D]; slots [B NEW]; keys, values [KV, slots, D BITS / 32] words and key_grids, value_grids
// [KV, slots, 2 D / GROUPED], written; size [2] slots of the pool, ...; after: waited for, not read -> done [1], 0: something
// to wait for. The grid is [NEW, B KV, keys or values]: a text for each length of a prompt would be compiled for each.
#include "coding.metal"

// ---- body
  constexpr int WORDS = D * BITS / 32;
  constexpr int GRIDS = 2 * D / GROUPED;
  uint lane = thread_index_in_simdgroup;
  uint token = threadgroup_position_in_grid.x;
  uint count = threadgroups_per_grid.x;
  uint head = threadgroup_position_in_grid.y % KV;
  uint row = threadgroup_position_in_grid.y / KV;
  bool key = threadgroup_position_in_grid.z == 0;
  const device T* from = (key ? k : v) + (size_t(threadgroup_position_in_grid.y) * count + token) * D;
  size_t to = size_t(head) * uint(size[0]) + uint(slots[row * count + token]);
  float x[D / 32];
#pragma unroll
  for (int e = 0; e < D / 32; e++) {
    x[e] = float(from[lane + 32 * e]);
  }
  if (TURNED) {
    turn<D>(x, lane);
  }
  pack_head<D, BITS, GROUPED, T>(x, (device uint*)(key ? keys : values) + to * WORDS,
                              (device T*)(key ? key_grids : value_grids) + to * GRIDS, lane);
  if (token + threadgroup_position_in_grid.y + threadgroup_position_in_grid.z + lane == 0) {
    done[0] = 0;
  }
