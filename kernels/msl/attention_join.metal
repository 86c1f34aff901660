// attention_join.metal: statements that join the simdgroups' sums of rows `begin` .. begin + ROWS - 1 of the tile: pieces
// of a row, a simdgroup each; a lane knows the weight of one simdgroup's sums.

  constexpr int EACH = elements_of_lane<ROWS * D, D, SIMDS>();
  for (uint i = simd; i < uint(ROWS * D / (32 * EACH)); i += SIMDS) {
    uint t = begin + i / (D / (32 * EACH));
    uint d = (i % (D / (32 * EACH)) * 32 + lane) * EACH;
    uint r = tile * TILE + t;
    if (t < uint(TILE) && r < uint(R)) {
      uint s = metal::min(lane, uint(SIMDS - 1));
      float top = simd_max(best[s * TILE + t]);
      float weight = metal::precise::exp(best[s * TILE + t] - top);
      float sum = simd_sum(lane < uint(SIMDS) ? weight * sums[s * TILE + t] : 0.0f);
      float value[EACH];
#pragma unroll
      for (int e = 0; e < EACH; e++) {
        value[e] = 0.0f;
      }
#pragma unroll
      for (int j = 0; j < SIMDS; j++) {
        uint part_of[EACH];
        take_words((const threadgroup uint*)(parts + (j * ROWS + t - begin) * D + d), part_of);
        add_weighted(value, part_of, simd_broadcast(weight, ushort(j)));
      }
      if (WHOLE) {
        size_t to = ((size_t(row) * NEW + r % NEW) * (KV * GROUP) + head * GROUP + r / NEW) * D + d;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
          o[to + e] = T(value[e] / sum);
        }
      } else {
        size_t to = ((size_t(row) * KV + head) * threadgroups_per_grid.x + part) * R + r;
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
