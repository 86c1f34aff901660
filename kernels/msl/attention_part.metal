// attention_part.metal: statements behind attention_place.metal: what the simdgroups join in the end. A part that no token
// of the row sees ends here. ROWS: how many rows of q are joined at once.

  threadgroup float best[SIMDS * TILE];
  threadgroup float sums[SIMDS * TILE];
  threadgroup float4 quads[SIMDS * ROWS * D / 4];       // [SIMDS][ROWS][D]
  threadgroup float* parts = (threadgroup float*)quads;

  device float* stats = partial + size_t(batch) * KV * threadgroups_per_grid.z * R * D;
  bool seen = any_seen<SPAN * PAGE, NEW, WINDOW>(first, position);

  if (thread_index_in_threadgroup == 0 && part + threadgroup_position_in_grid.x + row == 0) {
    if (WHOLE) {                                        // what is not used has one element
      partial[0] = 0.0f;
    } else if (!LAST) {
      o[0] = T(0.0f);
    }
  }

  if (!seen && !WHOLE) {                                // whoever joins does not read it
    for (uint i = thread_index_in_threadgroup; i < uint(TILE * D); i += SIMDS * 32) {
      uint r = tile * TILE + i / D;
      size_t to = ((size_t(row) * KV + head) * threadgroups_per_grid.z + part) * R + r;
      if (r < uint(R)) {
        partial[to * D + i % D] = 0.0f;
        if (i % D == 0) {
          stats[2 * to] = -1e30f;
          stats[2 * to + 1] = 0.0f;
        }
      }
    }
    return;
  }
