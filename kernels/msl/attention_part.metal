// attention_part.metal: statements that every kernel of attention begins with: which keys are a threadgroup's and a
// simdgroup's, and what the simdgroups join in the end. A part that no token of the row sees ends here. ROWS: how many
// rows of q are joined at once.

  constexpr int R = GROUP * NEW;
  constexpr int KEYS = SPAN * PAGE / SIMDS;             // of a simdgroup
  constexpr int PAGES = KEYS > PAGE ? KEYS / PAGE : 1;  // that these are in
  constexpr int TILES = (R + TILE - 1) / TILE;

  threadgroup float best[SIMDS * TILE];
  threadgroup float sums[SIMDS * TILE];
  threadgroup float4 quads[SIMDS * ROWS * D / 4];       // [SIMDS][ROWS][D]
  threadgroup float* parts = (threadgroup float*)quads;

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint part = threadgroup_position_in_grid.x;
  uint head = threadgroup_position_in_grid.y / TILES;
  uint tile = threadgroup_position_in_grid.y % TILES;
  uint row = threadgroup_position_in_grid.z;
  uint batch = threadgroups_per_grid.z;
  auto bounds = where + 2 + batch;                      // [batch, 2], and what is behind it in `where`
  auto slots_of = bounds + 2 * batch;                   // [batch, NEW]
  auto table = slots_of + batch * NEW;                  // [batch, parts SPAN]
  uint held_pages[PAGES];
#pragma unroll
  for (int i = 0; i < PAGES; i++) {
    held_pages[i] = uint(load_now(table + (row * threadgroups_per_grid.x + part) * SPAN + simd * KEYS / PAGE + i));
  }
  size_t slots = size_t(uint(load_now(where)));         // of the pool
  int origin = bounds[2 * row];                         // position of the table's first slot
  int first = origin + int(part) * SPAN * PAGE;         // of the part's
  int position = bounds[2 * row + 1];
  int mine = first + int(simd) * KEYS;                  // of the simdgroup's first
  device float* stats = partial + size_t(batch) * KV * threadgroups_per_grid.x * R * D;
  bool seen = any_seen<SPAN * PAGE, NEW, WINDOW>(first, position);

  if (thread_index_in_threadgroup == 0 && part + threadgroup_position_in_grid.y + row == 0) {
    if (WHOLE) {                                        // what is not used has one element
      partial[0] = 0.0f;
    } else if (!LAST) {
      o[0] = T(0.0f);
    }
  }

  if (!seen && !WHOLE) {                                // whoever joins does not read it
    for (uint i = thread_index_in_threadgroup; i < uint(TILE * D); i += SIMDS * 32) {
      uint r = tile * TILE + i / D;
      size_t to = ((size_t(row) * KV + head) * threadgroups_per_grid.x + part) * R + r;
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
