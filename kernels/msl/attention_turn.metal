// attention_turn.metal: 16 keys and values in the registers of a simdgroup, as two tiles of 8 each on the matrix units.
//
// Scores are K Q^T, a row a key: a lane has, of the keys tile_row and tile_row + 8, 8 neighbours of each 32 elements.
// Sums are V^T P^T, a row an element: a lane has, of four values (tile_column, the next, and these + 8), 8 neighbours of
// each 64 elements. Which element stands where in a tile is free, as long as both sides of a product agree.
#include "tile.metal"
#include "attention_chunks.metal"

// Which of the turn's keys value k of a lane belongs to.
METAL_FUNC int key_of(uint column, int k) { return int(column) + k % 2 + k / 2 * 8; }

// Of the first `count` values.
template <int D, int N, typename T>
METAL_FUNC void load_turn(const device T* from, int count, uint column, thread uint (&to)[4][N]) {
#pragma unroll
  for (int k = 0; k < 4; k++) {
    if (key_of(column, k) < count) {
      load_chunks<8, 64>(from + key_of(column, k) * D, to[k]);
    }
  }
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

// scores[h] = keys of tile h times q, of which `query` is the lane's part of its row. Two sums that do not wait for each
// other, and then their sum.
template <typename T, int N>
METAL_FUNC void score(thread float2 (&scores)[2], thread uint (&key)[2][N], const threadgroup T* query, bool inside,
                      threadgroup T* scratch, uint lane) {
  Tile<float> c[2][2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    clear(c[i][0]);
    clear(c[i][1]);
  }
#pragma unroll
  for (int s = 0; s < N; s += 4) {
    Tile<T> q[4];
    take_columns(q, query + 8 * s, inside, scratch, lane);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      Tile<T> a[2][2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        set_pair(a[h][0], as_type<vec<T, 2>>(key[h][s + i]));
        set_pair(a[h][1], as_type<vec<T, 2>>(key[h][s + i + 1]));
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

// sums += values times weights. Row g of tile n is element 64 (n / 8) + 8 g + n % 8.
template <typename T, int TILES, int N>
METAL_FUNC void add_values(thread Tile<float> (&sums)[TILES], thread uint (&value)[4][N], thread Tile<T> (&weights)[2]) {
#pragma unroll
  for (int n = 0; n < TILES; n += 2) {
    Tile<T> a[2][2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      set_pair(a[0][h], as_type<vec<T, 2>>(low_halves(value[2 * h][n / 2], value[2 * h + 1][n / 2])));
      set_pair(a[1][h], as_type<vec<T, 2>>(high_halves(value[2 * h][n / 2], value[2 * h + 1][n / 2])));
    }
    multiply(sums[n], sums[n + 1], a[0], a[1], weights[0], weights[1]);
  }
}
