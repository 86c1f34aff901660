// attention_first.metal: statements that attention.metal and self_attention.metal begin with: a lane's share of a head,
// and the loads of its first keys and values, long before they are needed.

  constexpr int E = D / LANES;                          // elements of a lane
  constexpr int W = E % 8 == 0 ? 8 : (E % 4 == 0 ? 4 : 2);
  constexpr int WORDS = E * int(sizeof(T)) / 4;         // a lane's part of a head, as it is loaded
  constexpr int TOGETHER = 32 / LANES;                  // keys of a simdgroup at once
  constexpr int CHUNK = TOGETHER * BATCH;               // of its turn: all in one page
  constexpr int KEYS = SIZE / SIMDS;                    // of a simdgroup
  constexpr int PAGES = KEYS > PAGE ? KEYS / PAGE : 1;  // that these are in
  constexpr int ROWS = TILE;
  constexpr int ROW_PITCH = D;

  threadgroup float4 quads[SIMDS * ROWS * D / 4];
  threadgroup float* parts = (threadgroup float*)quads;
  uint held_pages[PAGES];
  if (ONCE) {
    take_pages<SPAN, KEYS, PAGE>(held_pages, table, part, batch, simd);
  }

#include "attention_part.metal"

  if (!ONCE) {
    take_pages<SPAN, KEYS, PAGE>(held_pages, table, part, batch, simd);
  }
  int mine = first + int(simd) * KEYS;                  // position of the simdgroup's first key
  uint own = lane / LANES;                              // which of the keys
  uint offset = lane % LANES * W;                       // of the lane's first chunk
  size_t base = (size_t(head) * slots + own) * D + offset;

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
