// attention_first.metal: statements that attention.metal and self_attention.metal begin with: which keys are a
// threadgroup's and a simdgroup's, and the loads of the first of them, long before they are needed.

  constexpr int E = D / LANES;                          // elements of a lane
  constexpr int W = E % 8 == 0 ? 8 : (E % 4 == 0 ? 4 : 2);
  constexpr int WORDS = E * int(sizeof(T)) / 4;         // a lane's part of a head, as it is loaded
  constexpr int TOGETHER = 32 / LANES;                  // keys of a simdgroup at once
  constexpr int CHUNK = TOGETHER * BATCH;               // of its turn: all in one page
  constexpr int R = GROUP * NEW;
  constexpr int KEYS = SPAN * PAGE / SIMDS;             // of a simdgroup
  constexpr int PAGES = KEYS > PAGE ? KEYS / PAGE : 1;  // that these are in
  constexpr int TILES = (R + TILE - 1) / TILE;

  threadgroup float best[SIMDS * TILE];
  threadgroup float sums[SIMDS * TILE];
  threadgroup float parts[SIMDS * TILE * D];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint part = threadgroup_position_in_grid.x;
  uint head = threadgroup_position_in_grid.y / TILES;
  uint tile = threadgroup_position_in_grid.y % TILES;
  uint row = threadgroup_position_in_grid.z;
  uint own = lane / LANES;                              // which of the keys
  uint offset = lane % LANES * W;                       // of the lane's first chunk
  uint held_pages[PAGES];
#pragma unroll
  for (int i = 0; i < PAGES; i++) {
    held_pages[i] = uint(table[(row * threadgroups_per_grid.x + part) * SPAN + simd * KEYS / PAGE + i]);
  }
  size_t base = (size_t(head) * uint(size[0]) + own) * D + offset;
  int first = bounds[2 * row] + int(part) * SPAN * PAGE;  // position of the part's first slot
  int position = bounds[2 * row + 1];
  int mine = first + int(simd) * KEYS;                  // of the simdgroup's first
  bool seen = any_seen<SPAN * PAGE, NEW, WINDOW>(first, position);

  if (!seen && !WHOLE) {                                // the merge does not read it
    for (uint i = thread_index_in_threadgroup; i < uint(TILE * D); i += SIMDS * 32) {
      uint r = tile * TILE + i / D;
      size_t to = ((size_t(row) * KV + head) * threadgroups_per_grid.x + part) * R + r;
      if (r < uint(R)) {
        partial[to * D + i % D] = P(0.0f);
        if (i % D == 0) {
          stats[2 * to] = -1e30f;
          stats[2 * to + 1] = 0.0f;
        }
      }
    }
    return;
  }

  uint key[BATCH][WORDS];
  uint value[BATCH][WORDS];
#pragma unroll
  for (int k = 0; k < BATCH; k++) {
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      key[k][i] = 0u;
      value[k][i] = 0u;
    }
  }
  if (any_seen<CHUNK, NEW, WINDOW>(mine, position)) {
    size_t from = base + size_t(held_pages[0] * PAGE + simd * KEYS % PAGE) * D;
    int count = FRESH ? position - mine - int(own) : CHUNK;
    load_batch<W, LANES * W, D, TOGETHER>(keys + from, count, key);
    load_batch<W, LANES * W, D, TOGETHER>(values + from, count, value);
  }
