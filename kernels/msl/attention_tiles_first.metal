// attention_tiles_first.metal: statements that attention_tiles.metal and self_attention_tiles.metal begin with: the loads
// of a simdgroup's first turn, long before they are needed.

  constexpr int TURN = 16;                              // keys of a simdgroup at once: two tiles, in one page
  constexpr int ROWS = TILE < 4 ? TILE : 4;             // so that the sums take little threadgroup memory

  constexpr int PITCH = D + 32;                         // of rows of q: what lanes read at once is in different banks

  threadgroup uint4 queries[TILE * PITCH * int(sizeof(T)) / 16];

#include "attention_part.metal"

  uint own = tile_row(lane);                            // which key of a tile, which row of q, which chunk of a value
  uint column = tile_column(lane);                      // which of a tile's rows of q
  size_t base = size_t(head) * slots * D;
  uint key_offset = own * D + column * 4;               // of the lane's first chunk, from the turn's first key
  uint value_offset = own * 8;

  uint key[2][D / 8];
  uint value[4][D / 16];
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    key[0][i] = key[1][i] = 0u;
  }
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    value[0][i] = value[1][i] = value[2][i] = value[3][i] = 0u;
  }
  if (any_seen<TURN, NEW, WINDOW>(mine, position)) {
    size_t from = base + size_t(held_pages[0] * PAGE + simd * KEYS % PAGE) * D;
    int count = FRESH ? position - mine : TURN;
    load_batch<8, 32, D, 8>(keys + from + key_offset, count - int(own), key);
    load_turn<D>(values + from + value_offset, count, column, value);
  }
