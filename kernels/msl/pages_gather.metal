// pages_gather.metal: some slots of a pool, one after another. A thread an element.
//
// keys, values [KV, slots, D]; slots [S]; size [2] slots of the pool, S; after: waited for, not read -> k, v [KV, S, D];
// done [1], 0: something to wait for.

// ---- body
  uint i = threadgroup_position_in_grid.x * THREADS + thread_index_in_threadgroup;
  uint count = uint(size[1]);
  if (i < uint(KV * D) * count) {
    uint d = i % D;
    uint head = i / (D * count);
    size_t from = (size_t(head) * uint(size[0]) + uint(slots[i / D % count])) * D + d;
    k[i] = keys[from];
    v[i] = values[from];
  }
  if (i == 0) {
    done[0] = 0;
  }
