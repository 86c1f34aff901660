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

// An item is a quarter of a unit of a row of x, with its part of the norm's gain; a row's slice from unit `first` on has
// ITEMS of them.
template <int M, int K, int UNITS, int UNIT, int ITEMS, bool NORM, int N, typename T>
METAL_FUNC void bring_item(thread uint (&values)[N], thread uint (&gains)[N], const device T* x, const device T* gain,
                           uint item, uint first) {
  uint unit = first + item % ITEMS / 4;
  bool inside = unit < uint(UNITS) && item < uint(M * ITEMS);
  uint at = unit * UNIT + item % 4 * (2 * N);
  bring(values, x + item / ITEMS * K + at, inside);
  bring(gains, gain + at, NORM && inside);
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
