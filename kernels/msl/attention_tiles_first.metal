// attention_tiles_first.metal: statements that attention_tiles.metal and self_attention_tiles.metal begin with: the copies of
// the first round, long before it is needed.

  constexpr int ROWS = TILE < 4 ? TILE : 4;             // so that the sums take little threadgroup memory
  constexpr int ROW_PITCH = D + 8;                      // what lanes write at once is in different banks
  constexpr int STAGE = stage_of<D, REGION, T>();       // pieces of 16 bytes: keys of a region, or values
  constexpr int PITCH = D + 32;                         // of rows of q: what lanes read at once is in different banks

  threadgroup uint4 queries[TILE * PITCH * int(sizeof(T)) / 16];
  threadgroup uint4 staged[STAGED];                     // [region][keys, values][STAGE], then sums
  threadgroup T columns[SIMDS * tile_room(2) + 8];
  static_assert(2 * REGIONS * STAGE + SIMDS * ROWS * ROW_PITCH / 4 <= STAGED, "more threadgroup memory than was asked for");

  threadgroup float* parts = (threadgroup float*)(staged + 2 * REGIONS * STAGE);

#include "attention_part.metal"

  uint own = tile_row(lane);                            // which key of a tile, which row of q, which chunk of a value
  uint column = tile_column(lane);                      // which of a tile's rows of q
  size_t base = size_t(head) * slots * D;

  if (!ONCE) {
    take_round<SPAN, REGION, REGIONS, COPIERS, PAGE>(pages, table, part, 0, batch, copier);
  }
  if (copying) {
    bring_round<D, REGION, REGIONS, COPIERS, PAGE, NEW, WINDOW, FRESH>(
        staged, marks, keys + base, values + base, pages, first, 0, position, copier, lane);
  }
