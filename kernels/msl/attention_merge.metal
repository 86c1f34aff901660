// attention_merge.metal: the parts of attention.metal joined, in the order of positions. A thread an element of a head.
//
// partial, and bounds [B, 2] out of `where`, as there -> o [B, NEW, KV * GROUP, D].
#include "attention_parts.metal"

// ---- body
  constexpr int R = GROUP * NEW;

  uint d = thread_index_in_threadgroup;
  uint r = threadgroup_position_in_grid.x;
  uint head = threadgroup_position_in_grid.y;
  uint row = threadgroup_position_in_grid.z;
  uint token = r % NEW;
  int own = bounds[2 * row + 1] + int(token);
  int begin = bounds[2 * row];
  const device float* stats = partial + size_t(threadgroups_per_grid.z) * KV * PARTS * R * D;
  size_t base = (size_t(row) * KV + head) * PARTS * R + r;
  int from = first_part<SPAN * PAGE, WINDOW>(begin, own);
  int upto = last_part<SPAN * PAGE>(begin, own);
  float v[1];
  joined_parts<D, R, T>(v, partial + base * D, stats + 2 * base, from, upto, PARTS - 1, d, thread_index_in_simdgroup);
  o[((size_t(row) * NEW + token) * (KV * GROUP) + head * GROUP + r / NEW) * D + d] = T(v[0]);
