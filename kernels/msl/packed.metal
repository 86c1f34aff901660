// packed.metal: matrices as mx.quantize packs them. A word holds 8 values of 4 bits, or 4 of 8, lowest bits first.

// (word & mask) | bits; the low, or the high, halves of two words. CUDA has its own: of these its compiler makes two
// instructions where there is one.
#ifndef MSL_CUDA
METAL_FUNC uint masked_or(uint word, uint mask, uint bits) {
  return (word & mask) | bits;
}
METAL_FUNC uint low_halves(uint a, uint b) { return (a & 0xffffu) | (b << 16); }
METAL_FUNC uint high_halves(uint a, uint b) { return (a >> 16) | (b & 0xffff0000u); }
#endif

// Products of a row of x and a norm's gain, which in float16 are kept small: the row may be near the end of its range.
template <typename T> METAL_FUNC constexpr float product_scale() { return metal::is_same_v<T, half> ? 0.0625f : 1.0f; }
template <typename T>
METAL_FUNC vec<T, 2> products(vec<T, 2> a, vec<T, 2> b) {
  constexpr float scale = product_scale<T>();
  return vec<T, 2>(T(float(a.x) * float(b.x) * scale), T(float(a.y) * float(b.y) * scale));
}

// Where a norm's gain stands: by itself, or BEHIND so many scales and biases, from the next multiple of 8 values on.
template <bool BEHIND, typename T>
METAL_FUNC const device T* gain_of(const device T* scales, size_t count, const device T* gain) {
  return BEHIND ? scales + (count + 7) / 8 * 8 : gain;
}

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

// The same out of threadgroup memory, by another name: to CUDA, which is told no address spaces, overloads would be the same
// function twice.
template <int W>
METAL_FUNC void take_words(const threadgroup uint* from, thread uint (&words)[W]) {
  if constexpr (W == 4) {
    uint4 v = *(const threadgroup uint4*)from;
    words[0] = v.x;
    words[1 % W] = v.y;
    words[2 % W] = v.z;
    words[3 % W] = v.w;
  } else if constexpr (W == 2) {
    uint2 v = *(const threadgroup uint2*)from;
    words[0] = v.x;
    words[1 % W] = v.y;
  } else {
    words[0] = from[0];
  }
}

// 2 N consecutive 16-bit values, N a multiple of 4, as words of two neighbours.
template <typename T, int N>
METAL_FUNC void bring(thread uint (&words)[N], const device T* from) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    uint loaded[4];
    load_words((const device uint*)(from + 2 * i), loaded);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      words[i + e] = loaded[e];
    }
  }
}

// N consecutive elements, STEP (1, 2 or 4) in one load, as the type they are stored in or as floats.
template <int STEP, int N, typename T, typename To>
METAL_FUNC void load_values(const device T* from, thread To (&to)[N]) {
#pragma unroll
  for (int i = 0; i < N; i += STEP) {
    if constexpr (STEP == 1) {
      to[i] = To(from[i]);
    } else {
      vec<T, STEP> v = *(const device vec<T, STEP>*)(from + i);
#pragma unroll
      for (int e = 0; e < STEP; e++) {
        to[i + e] = To(v[e]);
      }
    }
  }
}

// N consecutive 16-bit elements, STEP (1, 2 or 4) in one load, as pairs in words.
template <int STEP, int N, typename T>
METAL_FUNC void load_pairs(const device T* from, thread uint (&words)[(N + 1) / 2]) {
  if constexpr (STEP == 1) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      words[i / 2] = as_type<uint>(vec<T, 2>(from[i], from[i + 1 < N ? i + 1 : i]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; i += STEP) {
      uint loaded[STEP / 2];
      load_words((const device uint*)(from + i), loaded);
      for (int e = 0; e < STEP / 2; e++) {
        words[i / 2 + e] = loaded[e];
      }
    }
  }
}

template <typename T, int N>
METAL_FUNC float element(thread uint (&words)[N], int i) {
  if constexpr (metal::is_same_v<T, bfloat>) {            // the upper half of a float
    return as_type<float>(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
  }
  vec<T, 2> pair = as_type<vec<T, 2>>(words[i / 2]);
  return float(i % 2 ? pair.y : pair.x);
}

// What is added to value i of a word as `number` reads it.
template <int BITS>
METAL_FUNC constexpr float base_of(int i) { return BITS == 4 && i % 2 ? 16.0f : 256.0f; }

// Value i of a word as the float BASE + q: bits of its mantissa are set, without arithmetic. Of 4 bits, neighbours have
// another base each, so that one shift brings both where they are set.
template <int BITS>
METAL_FUNC float number(uint word, int i) {
  constexpr uint mask = BITS == 4 ? 15u : 255u;
  int apart = BITS == 4 ? i % 2 * 4 : 0;
  int shift = 15 + apart - BITS * i;
  uint moved = shift < 0 ? word >> -shift : word << shift;
  return as_type<float>(masked_or(moved, mask << (15 + apart), apart ? 0x41800000u : 0x43800000u));
}

// What the bases add to the sum of numbers times v; total: the sum of v.
template <int BITS, int V>
METAL_FUNC float bases_of(thread float (&v)[V], thread float& total) {
  float sums[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < V; i++) {
    sums[i % 2] += v[i];
  }
  total = sums[0] + sums[1];
  return metal::fma(base_of<BITS>(0), sums[0], base_of<BITS>(1) * sums[1]);
}
