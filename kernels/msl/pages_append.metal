// pages_append.metal: keys and values of new tokens to their slots, in place. A thread an element.
//
// k, v [B, KV, NEW, D]; slots [B NEW]; keys, values [KV, slots, D], written; size [2] slots of the pool, ...;
// after: waited for, not read -> done [threadgroups], zeros: something to wait for.

// ---- body
  uint i = threadgroup_position_in_grid.x * THREADS + thread_index_in_threadgroup;
  if (i < uint(B * KV * NEW * D)) {
    uint d = i % D;
    uint token = i / D % NEW;
    uint head = i / (D * NEW) % KV;
    uint row = i / (D * NEW * KV);
    size_t to = (size_t(head) * uint(size[0]) + uint(slots[row * NEW + token])) * D + d;
    ((device T*)keys)[to] = k[i];
    ((device T*)values)[to] = v[i];
  }
  if (thread_index_in_threadgroup == 0) {
    done[threadgroup_position_in_grid.x] = 0;
  }
