// attention_tiles_first.metal: statements that attention_tiles.metal and self_attention_tiles.metal begin with: the copies of
// all simdgroups' first turns, long before they are needed.

  constexpr int ROWS = TILE < 4 ? TILE : 4;             // so that the sums take little threadgroup memory
  constexpr int STAGE = stage_of<D, T>();               // pieces of 16 bytes: keys of a turn, or values
  constexpr int PART_PITCH = ONCE ? 8 * STAGE : ROWS * D;
  constexpr int PITCH = D + 32;                         // of rows of q: what lanes read at once is in different banks

  threadgroup uint4 queries[TILE * PITCH * int(sizeof(T)) / 16];
  threadgroup uint4 staged[STAGED];                     // [simdgroup][keys, values][STAGE], then sums; ONCE: where keys stood
  threadgroup T columns[SIMDS * tile_room(2) + 8];
  static_assert(2 * SIMDS * STAGE + (ONCE ? 0 : SIMDS * ROWS * D / 4) <= STAGED, "more threadgroup memory than was asked for");

  threadgroup float* parts = (threadgroup float*)(staged + (ONCE ? 0 : 2 * SIMDS * STAGE));
  threadgroup uint4* key_stage = staged + 2 * simd * STAGE;
  threadgroup uint4* value_stage = key_stage + STAGE;
  threadgroup ulong* key_mark = marks + 2 * simd;
  threadgroup ulong* value_mark = key_mark + 1;

#include "attention_part.metal"

  uint own = tile_row(lane);                            // which key of a tile, which row of q, which chunk of a value
  uint column = tile_column(lane);                      // which of a tile's rows of q
  size_t base = size_t(head) * slots * D;

  if (copying) {
    // All keys, then all values. Little text: a core that fetches it anew with every launch waits for it.
#pragma unroll 1
    for (uint i = simd - (SIMDS - COPIERS); i < uint(2 * SIMDS); i += COPIERS) {
      uint s = i % SIMDS;
      bool of_values = i >= uint(SIMDS);
      int begin = mine + (int(s) - int(simd)) * KEYS;
      if (any_seen<TURN, NEW, WINDOW>(begin, position)) {
        size_t page = size_t(uint(table[(part * SPAN + s * KEYS / PAGE) * batch]));
        size_t from = base + (page * PAGE + s * KEYS % PAGE) * D;
        bring_heads<D>(staged + (2 * s + of_values) * STAGE, (of_values ? values : keys) + from, FRESH ? position - begin : TURN,
                            marks + 2 * s + of_values, lane);
      }
    }
  }
