// attention_join.metal: statements that join the simdgroups' sums of rows `begin` .. begin + ROWS - 1 of the tile: pieces
// of 32 elements of a row, a simdgroup each; a lane knows the weight of one simdgroup's sums.

  for (uint i = simd; i < uint(ROWS * D / 32); i += SIMDS) {
    uint t = begin + i / (D / 32);
    uint d = i % (D / 32) * 32 + lane;
    uint r = tile * TILE + t;
    if (t < uint(TILE) && r < uint(R)) {
      uint s = metal::min(lane, uint(SIMDS - 1));
      float top = simd_max(best[s * TILE + t]);
      float weight = metal::precise::exp(best[s * TILE + t] - top);
      float sum = simd_sum(lane < uint(SIMDS) ? weight * sums[s * TILE + t] : 0.0f);
      float value = 0.0f;
#pragma unroll
      for (int j = 0; j < SIMDS; j++) {
        value = metal::fma(simd_broadcast(weight, ushort(j)), parts[(j * ROWS + t - begin) * D + d], value);
      }
      if (WHOLE) {
        o[((size_t(row) * NEW + r % NEW) * (KV * GROUP) + head * GROUP + r / NEW) * D + d] = T(value / sum);
      } else {
        size_t to = ((size_t(row) * KV + head) * threadgroups_per_grid.x + part) * R + r;
        partial[to * D + d] = value;
        if (d == 0) {
          stats[2 * to] = top;
          stats[2 * to + 1] = sum;
        }
      }
    }
  }
