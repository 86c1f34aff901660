// attention_last.metal: statements that attention's kernels end with: of the threadgroups of a tile of q, the one that
// ends last joins the parts as attention_merge.metal does. A counter in `room` says how many have ended, and is zero again.

  threadgroup bool ended[1];                            // whether all have
  if constexpr (LAST) {
    device atomic_uint* counter = (device atomic_uint*)in_place(room) + (size_t(row) * KV + head) * TILES + tile;
    uint others = metal::min(step, upto_part - from_part + 1) - 1;
    threadgroup_barrier(mem_flags::mem_device);
    if (thread_index_in_threadgroup == 0) {
      bool all = others == 0;
      if (!all) {
        device_fence<LAST>();
        all = atomic_fetch_add_explicit(counter, 1u, memory_order_relaxed) == others;
        if (all) {
          device_fence<LAST>();
        }
      }
      ended[0] = all;
    }
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    if (ended[0]) {
      constexpr int EACH = elements_of_lane<TILE * D, D, SIMDS>();
      for (uint i = simd; i < uint(TILE * D / (32 * EACH)); i += SIMDS) {
        uint r = tile * TILE + i / (D / (32 * EACH));
        uint d = (i % (D / (32 * EACH)) * 32 + lane) * EACH;
        if (r < uint(R)) {
          int self = position + int(r % NEW);
          int from = first_part<SIZE, WINDOW>(origin, self);
          int upto = last_part<SIZE>(origin, self);
          size_t at = above * R + r;
          float v[EACH];
          joined_parts<D, R, T>(v, partial + at * D, stats + 2 * at, from, upto, upto, d, lane);
          size_t to = ((size_t(row) * NEW + r % NEW) * (KV * GROUP) + head * GROUP + r / NEW) * D + d;
#pragma unroll
          for (int e = 0; e < EACH; e++) {
            o[to + e] = OUT(v[e]);
          }
        }
      }
      if (others > 0 && thread_index_in_threadgroup == 0) {
        atomic_store_explicit(counter, 0u, memory_order_relaxed);
      }
    }
  }
