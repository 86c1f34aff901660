// attention_chunks.metal: how attention.metal and self_attention.metal load.
#include "packed.metal"

// A lane's elements of a key, in chunks of W neighbours that STRIDE apart: as they are stored, then as floats.
template <int W, int STRIDE, int N, typename T>
METAL_FUNC void load_chunks(const device T* from, thread T (&to)[N]) {
#pragma unroll
  for (int c = 0; c < N / W; c++) {
    if constexpr (W == 8 && sizeof(T) == 2) {
      uint words[4];
      load_words((const device uint*)(from + c * STRIDE), words);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        vec<T, 2> pair = as_type<vec<T, 2>>(words[e]);
        to[c * W + 2 * e] = pair.x;
        to[c * W + 2 * e + 1] = pair.y;
      }
    } else {
      constexpr int STEP = W % 4 == 0 ? 4 : W;
#pragma unroll
      for (int e = 0; e < W; e += STEP) {
        vec<T, STEP> part = *(const device vec<T, STEP>*)(from + c * STRIDE + e);
#pragma unroll
        for (int i = 0; i < STEP; i++) {
          to[c * W + e + i] = part[i];
        }
      }
    }
  }
}

