// dots.metal: dot products of some rows of a matrix with a part of a vector, lane by lane, in steps of V values.
//
// ROWS rows, of each V consecutive values in W words. BITS 4, 8: packed; 16, 32: plain, of type T. A step's loads stand
// apart from its arithmetic, so that those of the next step can be on their way meanwhile.
#include "packed.metal"

// Value i of a step: of packed ones BASE + q.
template <int BITS, typename T, int W>
METAL_FUNC float value_of(thread uint (&words)[W], int i) {
  if constexpr (BITS < 16) {
    constexpr int per = 32 / BITS;
    return number<BITS>(words[i / per], i % per);
  } else if constexpr (BITS == 16) {
    return element<T>(words, i);
  } else {
    return as_type<float>(words[i]);
  }
}

// Values k .. k + V of each of `rows`, of K values each, with their scales and biases.
template <int BITS, int GROUP, int K, int ROWS, int W, typename P, typename T>
METAL_FUNC void load_step(const device P* w, const device T* scales, const device T* biases, thread size_t (&rows)[ROWS],
                          int k, thread uint (&words)[ROWS][W], thread float (&scale)[ROWS], thread float (&zero)[ROWS]) {
  constexpr int per = 32 / BITS;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    load_words((const device uint*)w + (rows[r] * K + k) / per, words[r]);
    if (BITS < 16) {
      size_t g = rows[r] * (K / GROUP) + k / GROUP;
      scale[r] = float(scales[g]);
      zero[r] = float(biases[g]);
    }
  }
}

// acc += factor * (rows . v). In float32 every weight is scaled by itself: the bases' part of the sum would show.
template <int BITS, typename T, int ROWS, int V, int W>
METAL_FUNC void add_step(thread uint (&words)[ROWS][W], thread float (&scale)[ROWS], thread float (&zero)[ROWS],
                         thread float (&v)[V], float factor, thread float (&acc)[ROWS]) {
  constexpr bool packed = BITS < 16;
  constexpr bool factored = packed && !metal::is_same_v<T, float>;
  float total = 0.0f;
  float bases = factored ? bases_of<BITS>(v, total) : 0.0f;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < V; i++) {
      float weight = value_of<BITS, T>(words[r], i);
      if (packed && !factored) {
        weight = metal::fma(scale[r], weight - base_of<BITS>(i), zero[r]);
      }
      dot = metal::fma(weight, v[i], dot);
    }
    if (factored) {
      dot = metal::fma(scale[r], dot - bases, zero[r] * total);
    }
    acc[r] = metal::fma(factor, dot, acc[r]);
  }
}
