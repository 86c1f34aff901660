// packed.metal: matrices as mx.quantize packs them. A word holds 8 values of 4 bits, or 4 of 8, lowest bits first.

// W consecutive words, in one load.
template <int W>
METAL_FUNC void load_words(const device uint* from, thread uint (&words)[W]) {
  if constexpr (W == 4) {
    uint4 v = *(const device uint4*)from;
    words[0] = v.x;
    words[1 % W] = v.y;
    words[2 % W] = v.z;
    words[3 % W] = v.w;
  } else if constexpr (W == 2) {
    uint2 v = *(const device uint2*)from;
    words[0] = v.x;
    words[1 % W] = v.y;
  } else {
    words[0] = from[0];
  }
}

// N consecutive elements as floats, STEP (1, 2 or 4) in one load.
template <int STEP, int N, typename T>
METAL_FUNC void load_floats(const device T* from, thread float (&to)[N]) {
#pragma unroll
  for (int i = 0; i < N; i += STEP) {
    if constexpr (STEP == 1) {
      to[i] = float(from[i]);
    } else {
      vec<T, STEP> v = *(const device vec<T, STEP>*)(from + i);
#pragma unroll
      for (int e = 0; e < STEP; e++) {
        to[i + e] = float(v[e]);
      }
    }
  }
}
