// linear_numbers.metal: rows of x on their way to whole numbers, for linear_bytes.metal.
#include "bytes.metal"
#include "packed.metal"

// What a lane brings of x for its item of a pass: 2 N neighbours of a row, in words; zeros where there are none.
template <int N, typename T>
METAL_FUNC void bring(thread uint (&words)[N], const device T* from, bool inside) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    words[i] = 0u;
  }
  if (inside) {
    bring(words, from);
  }
}

// An item is a quarter of a unit of a row of x; a row's slice from unit `first` on has ITEMS of them.
template <int M, int K, int UNITS, int UNIT, int ITEMS, int N, typename T>
METAL_FUNC void bring_item(thread uint (&values)[N], const device T* x, uint item, uint first) {
  uint unit = first + item % ITEMS / 4;
  bool inside = unit < uint(UNITS) && item < uint(M * ITEMS);
  bring(values, x + item / ITEMS * K + unit * UNIT + item % 4 * (2 * N), inside);
}

// An item's part of the norm's gain: the same for all rows.
template <int UNITS, int UNIT, int ITEMS, bool NORM, int N, typename T>
METAL_FUNC void bring_gain(thread uint (&gains)[N], const device T* gain, uint item, uint first) {
  uint unit = first + item % ITEMS / 4;
  bring(gains, gain + unit * UNIT + item % 4 * (2 * N), NORM && unit < uint(UNITS));
}

// The passes whose items are on their way at once, with the gains that go with them: one pass has those of all where a pass
// has whole rows.
template <int M, int K, int UNITS, int UNIT, int ITEMS, bool NORM, int AHEAD, int GAINS, int N, typename T>
METAL_FUNC void bring_passes(thread uint (&values)[AHEAD][N], thread uint (&gains)[GAINS][N], const device T* x,
                             const device T* gain, uint lane, uint first) {
#pragma unroll
  for (int p = 0; p < AHEAD; p++) {
    bring_item<M, K, UNITS, UNIT, ITEMS>(values[p], x, lane + 32u * p, first);
  }
#pragma unroll
  for (int p = 0; p < GAINS; p++) {
    bring_gain<UNITS, UNIT, ITEMS, NORM>(gains[p], gain, lane + 32u * p, first);
  }
}

// The bits of the largest magnitude: NaN's are above all others.
template <int V>
METAL_FUNC uint largest_bits(thread float (&v)[V]) {
  uint largest = 0u;
#pragma unroll
  for (int e = 0; e < V; e++) {
    largest = metal::max(largest, as_type<uint>(v[e]) & 0x7fffffffu);
  }
  return largest;
}

// The same of pairs in words, as a float's bits.
template <typename T, int N>
METAL_FUNC uint largest_bits_of(thread uint (&words)[N]) {
  uint largest = 0u;
#pragma unroll
  for (int e = 0; e < N; e++) {
    largest = max_pairs(largest, words[e] & 0x7fff7fffu);
  }
  largest = metal::max(largest & 0xffffu, largest >> 16);
  return metal::is_same_v<T, bfloat> ? largest << 16 : as_type<uint>(float(as_type<half>(ushort(largest))));
}

// Sum over the four lanes that share a unit of a row.
template <typename V>
METAL_FUNC V quad_added(V v) {
  v += simd_shuffle_xor(v, ushort(1));
  return v + simd_shuffle_xor(v, ushort(2));
}

// An item as whole numbers in planes of bytes, and what four lanes know of their unit together: 1 / power, the sum of its
// numbers, and of x without the gain the squares' sum.
template <int BITS, bool NORM, typename T, int STEPS, int N>
METAL_FUNC void as_numbers(thread uint4 (&planes)[STEPS], thread float& inverse, thread int& sum, thread float& squared,
                           thread uint (&values)[N], thread uint (&gains)[N]) {
  float v[2 * N];
  squared = 0.0f;
#pragma unroll
  for (int e = 0; e < 2 * N; e++) {
    v[e] = element<T>(values, e);
    squared = NORM ? metal::fma(v[e], v[e], squared) : 0.0f;
    v[e] = NORM ? v[e] * element<T>(gains, e) : v[e];
  }
  uint largest = NORM ? largest_bits(v) : largest_bits_of<T>(values);
  largest = metal::max(largest, simd_shuffle_xor(largest, ushort(1)));
  largest = metal::max(largest, simd_shuffle_xor(largest, ushort(2)));
  // 2^exponent is above all values, and not so close that rounding gets there.
  uint exponent = metal::max((largest + 0x100u) >> 23, 20u);
  float power = as_type<float>((268u - metal::min(exponent, 254u)) << 23);
  inverse = as_type<float>(exponent > 254u ? 0x7fc00000u : (exponent - 14u) << 23);
  uint n[2 * N];                                                    // in its low 16 bits
#pragma unroll
  for (int e = 0; e < 2 * N; e++) {
    n[e] = as_type<uint>(metal::fma(v[e], power, 12582912.0f));
  }
  sum = 0;
#pragma unroll
  for (int t = 0; t < STEPS; t++) {
    constexpr int A = BITS == 4 ? 2 : 1;                            // of a word with 4 bits: even values, then odd ones
    constexpr int B = BITS == 4 ? 1 : 4;
    thread uint* s = n + 8 * t;
    planes[t] = planes_of(s[0], s[A], s[2 * A], s[3 * A],  //
                          s[B], s[B + A], s[B + 2 * A], s[B + 3 * A]);
    sum += sum_bytes<false>(planes[t].x) + sum_bytes<false>(planes[t].y);
    sum += 256 * (sum_bytes<true>(planes[t].z) + sum_bytes<true>(planes[t].w));
  }
  sum = quad_added(sum);
  squared = NORM ? quad_added(squared) : 0.0f;
}

// A lane's part of a unit of x: its numbers' bytes, low ones and high ones, and of its columns of the product 1 / power
// and the sum of x.
template <int STEPS>
struct Unit {
  uint b[STEPS][4];
  float inverses[2];
  float sums[2];
};

template <int M, int STEPS>
METAL_FUNC void take_unit(thread Unit<STEPS>& unit, const threadgroup uint4* numbers, const threadgroup float* factors,
                          int u, uint lane) {
  bool inside = lane / 4 < uint(M);
#pragma unroll
  for (int t = 0; t < STEPS; t++) {
    uint4 taken = inside ? numbers[(u * STEPS + t) * M * 4 + (inside ? lane : 0u)] : uint4(0u, 0u, 0u, 0u);
    unit.b[t][0] = taken.x;
    unit.b[t][1] = taken.y;
    unit.b[t][2] = taken.z;
    unit.b[t][3] = taken.w;
  }
  for (int e = 0; e < 2; e++) {
    uint m = 2 * (lane % 4) + e;
    unit.inverses[e] = m < uint(M) ? factors[2 * (u * M + m)] : 0.0f;
    unit.sums[e] = m < uint(M) ? factors[2 * (u * M + m) + 1] : 0.0f;
  }
}
