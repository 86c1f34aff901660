// tile.metal: products of 8x8 tiles on the matrix units. A lane holds two elements of a tile, neighbours in a row.
//
// CUDA's tensor cores take other shapes and hold other elements, so cuda.h has its own version of these functions.
#ifndef MSL_CUDA
template <typename T> using Tile = simdgroup_matrix<T, 8, 8>;

// The row, and the first of the two columns, that a lane holds: Apple's layout, as MLX's own kernels assume it.
METAL_FUNC uint tile_row(uint lane) { return ((lane >> 2) & 4u) | ((lane >> 1) & 3u); }
METAL_FUNC uint tile_column(uint lane) { return ((lane >> 1) & 4u) | ((lane & 1u) << 1); }

// Elements of threadgroup memory that a simdgroup needs for columns_of_rows.
METAL_FUNC constexpr int tile_room(int tiles) { return 64 * tiles; }

// Tile i becomes the transpose of the 8x8 matrix of which a lane brings its two elements, as if it were a tile.
// `scratch` is room of this simdgroup's own.
template <int N, typename T>
METAL_FUNC void columns_of_rows(thread vec<T, 2> (&pairs)[N], thread Tile<T> (&tiles)[N], threadgroup T* scratch,
                                uint lane) {
  threadgroup T* own = scratch + tile_row(lane) * (8 * N) + tile_column(lane);
  for (int i = 0; i < N; i++) {
    own[8 * i] = pairs[i].x;
    own[8 * i + 1] = pairs[i].y;
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  for (int i = 0; i < N; i++) {
    simdgroup_load(tiles[i], scratch + 8 * i, 8 * N, ulong2(0, 0), true);
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
}

// B of a product, of what a product has made: on Metal a tile is a tile.
template <typename T>
METAL_FUNC void as_right(thread Tile<T>&) {}

// The largest, and the sum, of the 8 elements of a column, of which each lane brings the one in its row.
METAL_FUNC float column_max(float x) {
  x = metal::max(x, simd_shuffle_xor(x, ushort(2)));
  x = metal::max(x, simd_shuffle_xor(x, ushort(4)));
  return metal::max(x, simd_shuffle_xor(x, ushort(16)));
}
METAL_FUNC float column_sum(float x) {
  x += simd_shuffle_xor(x, ushort(2));
  x += simd_shuffle_xor(x, ushort(4));
  return x + simd_shuffle_xor(x, ushort(16));
}

// c0 += a0[0] b0 + a0[1] b1 and c1 += a1[0] b0 + a1[1] b1: what one tensor-core instruction does.
template <typename T>
METAL_FUNC void multiply(thread Tile<float>& c0, thread Tile<float>& c1, thread Tile<T> (&a0)[2],
                         thread Tile<T> (&a1)[2], thread Tile<T>& b0, thread Tile<T>& b1) {
  simdgroup_multiply_accumulate(c0, a0[0], b0, c0);
  simdgroup_multiply_accumulate(c0, a0[1], b1, c0);
  simdgroup_multiply_accumulate(c1, a1[0], b0, c1);
  simdgroup_multiply_accumulate(c1, a1[1], b1, c1);
}
#endif

template <typename T>
METAL_FUNC void set_pair(thread Tile<T>& tile, vec<T, 2> pair) {
  tile.thread_elements()[0] = pair.x;
  tile.thread_elements()[1] = pair.y;
}

template <typename T>
METAL_FUNC void clear(thread Tile<T>& tile) {
  set_pair(tile, vec<T, 2>(T(0.0f)));
}
