// attention_place.metal: statements that every kernel of attention begins with: which keys are a threadgroup's and a
// simdgroup's, and the loads that tell where they are.

  constexpr int R = GROUP * NEW;
  constexpr int KEYS = SPAN * PAGE / SIMDS;             // of a simdgroup
  constexpr int PAGES = KEYS > PAGE ? KEYS / PAGE : 1;  // that these are in
  constexpr int TILES = (R + TILE - 1) / TILE;

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint part = threadgroup_position_in_grid.z;           // last: those that no token sees then begin last
  uint head = threadgroup_position_in_grid.x / TILES;
  uint tile = threadgroup_position_in_grid.x % TILES;
  uint row = threadgroup_position_in_grid.y;
  uint batch = threadgroups_per_grid.y;
  auto bounds = where + 2 + batch;                      // [batch, 2], and what is behind it in `where`
  auto slots_of = bounds + 2 * batch;                   // [batch, NEW]
  auto table = slots_of + batch * NEW;                  // [batch, parts SPAN]
  uint held_pages[PAGES];
#pragma unroll
  for (int i = 0; i < PAGES; i++) {
    held_pages[i] = uint(load_now(table + (row * threadgroups_per_grid.z + part) * SPAN + simd * KEYS / PAGE + i));
  }
  size_t slots = size_t(uint(load_now(where)));         // of the pool
  int origin = bounds[2 * row];                         // position of the table's first slot
  int first = origin + int(part) * SPAN * PAGE;         // of the part's
  int position = bounds[2 * row + 1];
  int mine = first + int(simd) * KEYS;                  // of the simdgroup's first
