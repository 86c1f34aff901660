// attention_place.metal: statements that every kernel of attention begins with: which keys are a threadgroup's, and the loads
// that tell where they are.

  constexpr int R = GROUP * NEW;
  constexpr int SIZE = SPAN * PAGE;                     // keys of a part
  constexpr int TILES = (R + TILE - 1) / TILE;

  uint lane = thread_index_in_simdgroup;
  uint simd = simd_broadcast(simdgroup_index_in_threadgroup, ushort(0));  // so that a compiler knows: the same for all lanes
  uint part = threadgroup_position_in_grid.z;           // last: those that no token sees then begin last
  uint step = threadgroups_per_grid.z;                  // from one part of the threadgroup to its next
  uint head = threadgroup_position_in_grid.x / TILES;
  uint tile = threadgroup_position_in_grid.x % TILES;
  uint row = threadgroup_position_in_grid.y;
  uint batch = threadgroups_per_grid.y;
  auto bounds = where + 2 + batch;                      // [batch, 2], and what is behind it in `where`
  auto slots_of = bounds + 2 * batch;                   // [batch, NEW]
  auto table = slots_of + batch * NEW + row;            // [count SPAN, batch]
  size_t slots = size_t(uint(load_now(where)));         // of the pool
  uint count = uint(load_now(where + 1)) / SPAN;        // parts of a row
  int origin = bounds[2 * row];                         // position of the table's first slot
  int position = bounds[2 * row + 1];
  uint from_part = uint(first_part<SIZE, WINDOW>(origin, position));  // of those that any token sees
  uint upto_part = uint(last_part<SIZE>(origin, position + NEW - 1));
