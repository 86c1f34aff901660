// attention_join.metal: statements that join the simdgroups' sums of rows `begin` .. begin + ROWS - 1 of the tile: pieces
// of a row, a simdgroup each. A lane weighs one simdgroup's sums.

  constexpr int EACH = elements_of_lane<ROWS * D, D, SIMDS>();
  constexpr int PEERS = power_of_2<SIMDS>();
#pragma unroll 1
  for (uint i = simd; i < uint(ROWS * D / (32 * EACH)); i += SIMDS) {
    uint t = begin + i / (D / (32 * EACH));
    uint d = (i % (D / (32 * EACH)) * 32 + lane) * EACH;
    uint r = tile * TILE + t;
    if (t < uint(TILE) && r < uint(R)) {
      uint peer = lane % PEERS;
      float weight = -1e30f;
      float sum = 0.0f;
      if (peer < uint(SIMDS)) {
        weight = best[peer * TILE + t];
        sum = sums[peer * TILE + t];
      }
      float top = weight;
#pragma unroll
      for (int j = 1; j < PEERS; j *= 2) {
        top = metal::max(top, simd_shuffle_xor(top, ushort(j)));
      }
      weight = metal::precise::exp(weight - top);
      sum *= weight;
#pragma unroll
      for (int j = 1; j < PEERS; j *= 2) {
        sum += simd_shuffle_xor(sum, ushort(j));
      }
      float value[EACH];
#pragma unroll
      for (int e = 0; e < EACH; e++) {
        value[e] = 0.0f;
      }
#pragma unroll
      for (int j = 0; j < SIMDS; j++) {
        uint part_of[EACH];
        take_words((const threadgroup uint*)(parts + (j * ROWS + (t - begin)) * ROW_PITCH + d), part_of);
        add_weighted(value, part_of, simd_broadcast(weight, ushort(j)));
      }
      if (WHOLE) {
        size_t to = ((size_t(row) * NEW + r % NEW) * (KV * GROUP) + head * GROUP + r / NEW) * D + d;
        divide<T>(value, sum);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
          o[to + e] = OUT(value[e]);
        }
      } else {
        size_t to = (above + part) * R + r;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
          partial[to * D + d + e] = value[e];
        }
        if (d == 0) {
          stats[2 * to] = top;
          stats[2 * to + 1] = sum;
        }
      }
    }
  }
