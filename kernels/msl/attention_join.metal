// attention_join.metal: statements that join the simdgroups' sums of rows `begin` .. begin + ROWS - 1 of the tile: pieces
// of a row, a simdgroup each.

  constexpr int EACH = elements_of_lane<ROWS * D, D, SIMDS>();
  for (uint i = simd; i < uint(ROWS * D / (32 * EACH)); i += SIMDS) {
    uint t = begin + i / (D / (32 * EACH));
    uint d = (i % (D / (32 * EACH)) * 32 + lane) * EACH;
    uint r = tile * TILE + t;
    if (t < uint(TILE) && r < uint(R)) {
      float weight[SIMDS];                              // all lanes the same: a shuffle takes longer
      float top = -1e30f;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < SIMDS; j++) {
        weight[j] = best[j * TILE + t];
        top = metal::max(top, weight[j]);
      }
#pragma unroll
      for (int j = 0; j < SIMDS; j++) {
        weight[j] = metal::precise::exp(weight[j] - top);
        sum = metal::fma(weight[j], sums[j * TILE + t], sum);
      }
      float value[EACH];
#pragma unroll
      for (int e = 0; e < EACH; e++) {
        value[e] = 0.0f;
      }
#pragma unroll
      for (int j = 0; j < SIMDS; j++) {
        uint part_of[EACH];
        take_words((const threadgroup uint*)(parts + j * PART_PITCH + (t - begin) * D + d), part_of);
        add_weighted(value, part_of, weight[j]);
      }
      if (WHOLE) {
        size_t to = ((size_t(row) * NEW + r % NEW) * (KV * GROUP) + head * GROUP + r / NEW) * D + d;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
          o[to + e] = T(value[e] / sum);
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
