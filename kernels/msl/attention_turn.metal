// attention_turn.metal: 16 keys and values of a simdgroup, as two tiles of 8 each on the matrix units.
//
// Scores are K Q^T, a row a key: a lane has, of the keys at tile_row and tile_row + 8, 8 neighbours of each 32 elements.
// Sums are V^T P^T, a row an element: a lane has, of four values (at tile_column, the next, and these + 8), 8 neighbours of
// each 64 elements. Which element stands where in a tile is free, as long as both sides of a product agree; so is which key.
//
// They come to threadgroup memory in regions of neighbours that simdgroups share: four blocks, 32 bytes between them. What lanes
// read at once is then in different banks, if neighbouring rows of a tile are of different blocks.
#include "tile.metal"
#include "staging.metal"
#include "attention_chunks.metal"

template <int D, typename T>
METAL_FUNC constexpr int pieces_of() { return D * int(sizeof(T)) / 16; }  // of 16 bytes: a head
template <int D, int REGION, typename T>
METAL_FUNC constexpr int stage_of() { return REGION * pieces_of<D, T>() + 8; }

// In which block of its region stands row 2 c + e + 8 h of a simdgroup's tiles, and as which key of the region: `place` says the
// how manieth of the region's simdgroups it is.
METAL_FUNC int block_of(uint c, uint e) { return int((c + 2 * e) % 4); }
template <int REGION>
METAL_FUNC int key_of(int block, uint place, int e, int h) { return block * (REGION / 4) + int(4 * place) + e + 2 * h; }

// The pages of a copier's regions of the round that begins with key k0 of a part; `table` is its row's, [parts SPAN, batch].
template <int SPAN, int REGION, int REGIONS, int COPIERS, int PAGE, int N, typename Table>
METAL_FUNC void take_round(thread uint (&pages)[N], Table table, uint part, int k0, uint batch, uint copier) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    uint r = metal::min(copier + i * COPIERS, uint(REGIONS - 1));
    pages[i] = uint(load_now(table + (part * SPAN + (uint(k0) + r * REGION) / PAGE) * batch));
  }
}

// A copier's regions of the round that begins with key k0 of the part whose first key is at `first`: of all first the keys. Keys
// and values of a head are given. FRESH: from `position` on there are none yet. A region that no token sees is left out.
template <int D, int REGION, int REGIONS, int COPIERS, int PAGE, int NEW, int WINDOW, bool FRESH, typename T, int N>
METAL_FUNC void bring_round(threadgroup uint4* staged, threadgroup ulong* marks, const device T* keys, const device T* values,
                            thread uint (&pages)[N], int first, int k0, int position, uint copier, uint lane) {
  constexpr int PIECES = pieces_of<D, T>();
#pragma unroll 1
  for (uint kind = 0; kind < 2; kind++) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      uint r = copier + i * COPIERS;
      int begin = first + k0 + int(r) * REGION;
      if ((REGIONS % COPIERS == 0 || r < uint(REGIONS)) && any_seen<REGION, NEW, WINDOW>(begin, position)) {
        const device T* from = (kind == 0 ? keys : values) + size_t(pages[i] * PAGE + (uint(k0) + r * REGION) % PAGE) * D;
        int count = FRESH ? metal::min(position - begin, REGION) : REGION;
        copy_blocks<REGION / 4 * PIECES, REGION / 4 * PIECES + 2>(
            staged + (2 * r + kind) * stage_of<D, REGION, T>(), (const device uint4*)from, uint(metal::max(0, count) * PIECES),
            marks + 2 * r + kind, lane);
      }
    }
  }
}

// Where a key or a value of a region stands. FRESH: from `position` on it is not in the stage but in `fresh` [NEW, 2, D].
template <int D, int NEW, bool FRESH, typename T>
METAL_FUNC const threadgroup T* head_at(const threadgroup uint4* stage, const threadgroup uint4* fresh, int block, int key,
                                        int reached, int position, int kind) {
  constexpr int PIECES = pieces_of<D, T>();
  const threadgroup uint4* at = stage + key * PIECES + 2 * block;
  if (FRESH && reached + key >= position) {
    at = fresh + (2 * (NEW > 1 ? metal::min(reached + key - position, NEW - 1) : 0) + kind) * PIECES;
  }
  return (const threadgroup T*)at;
}

// 8 neighbours of a lane's tile_row of q, in tiles to multiply with. `scratch` is room for two tiles of the simdgroup's own.
template <typename T>
METAL_FUNC void take_columns(thread Tile<T> (&tiles)[4], const threadgroup T* from, bool inside, threadgroup T* scratch,
                             uint lane) {
  uint words[4] = {0u, 0u, 0u, 0u};
  if (inside) {
    take_words((const threadgroup uint*)from, words);
  }
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    vec<T, 2> pairs[2] = {as_type<vec<T, 2>>(words[i]), as_type<vec<T, 2>>(words[i + 1])};
    Tile<T> two[2];
    columns_of_rows(pairs, two, scratch, lane);
    tiles[i] = two[0];
    tiles[i + 1] = two[1];
  }
}

// scores[h] = keys of tile h times q, of which `key` and `query` are the lane's parts of its rows. Two sums that do not wait for
// each other, and then their sum.
template <int D, typename T>
METAL_FUNC void score(thread float2 (&scores)[2], const threadgroup T* thread (&key)[2], const threadgroup T* query, bool inside,
                      threadgroup T* scratch, uint lane) {
  Tile<float> c[2][2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    clear(c[i][0]);
    clear(c[i][1]);
  }
#pragma unroll
  for (int d = 0; d < D; d += 32) {
    Tile<T> q[4];
    take_columns(q, query + d, inside, scratch, lane);
    uint words[2][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      take_words((const threadgroup uint*)(key[h] + d), words[h]);
    }
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      Tile<T> a[2][2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        set_pair(a[h][0], as_type<vec<T, 2>>(words[h][i]));
        set_pair(a[h][1], as_type<vec<T, 2>>(words[h][i + 1]));
      }
      multiply(c[i / 2][0], c[i / 2][1], a[0], a[1], q[i], q[i + 1]);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    scores[h] = float2(c[0][h].thread_elements()[0] + c[1][h].thread_elements()[0],
                       c[0][h].thread_elements()[1] + c[1][h].thread_elements()[1]);
  }
}

// sums += values times weights, of elements d .. d + 63: `value` are the lane's parts, `used` says whether a value counts: what
// a slot holds that no token sees may be no number. Row g of tile n is element 8 g + n.
template <typename T>
METAL_FUNC void add_values(thread Tile<float>* sums, const threadgroup T* thread (&value)[4], thread bool (&used)[4], int d,
                           thread Tile<T> (&weights)[2]) {
  uint words[4][4];
#pragma unroll
  for (int k = 0; k < 4; k++) {
    take_words((const threadgroup uint*)(value[k] + d), words[k]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      words[k][i] = used[k] ? words[k][i] : 0u;
    }
  }
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    Tile<T> a[2][2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      set_pair(a[0][h], as_type<vec<T, 2>>(low_halves(words[2 * h][n / 2], words[2 * h + 1][n / 2])));
      set_pair(a[1][h], as_type<vec<T, 2>>(high_halves(words[2 * h][n / 2], words[2 * h + 1][n / 2])));
    }
    multiply(sums[n], sums[n + 1], a[0], a[1], weights[0], weights[1]);
  }
}
