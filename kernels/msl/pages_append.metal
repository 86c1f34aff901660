// pages_append.metal: keys and values of new tokens to their slots, in place. A threadgroup a head of a new token.
//
// k, v [B, KV, NEW, D]; slots [B NEW]; keys, values [KV, slots, D], written; size [2] slots of the pool, ...;
// after: waited for, not read -> done [1], 0: something to wait for. The grid is [NEW, B KV]: a text for each length of
// a prompt would be compiled for each.

// ---- body
  uint token = threadgroup_position_in_grid.x;
  uint count = threadgroups_per_grid.x;
  uint head = threadgroup_position_in_grid.y % KV;
  uint row = threadgroup_position_in_grid.y / KV;
  size_t from = (size_t(threadgroup_position_in_grid.y) * count + token) * D;
  size_t to = (size_t(head) * uint(size[0]) + uint(slots[row * count + token])) * D;
  for (uint d = thread_index_in_threadgroup; d < uint(D); d += THREADS) {
    ((device T*)keys)[to + d] = k[from + d];
    ((device T*)values)[to + d] = v[from + d];
  }
  if (token + threadgroup_position_in_grid.y + thread_index_in_threadgroup == 0) {
    done[0] = 0;
  }
