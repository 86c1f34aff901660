// linear_numbers.metal: rows of x on their way to whole numbers, for linear_bytes.metal.
#include "bytes.metal"
#include "packed.metal"
#include "staging.metal"

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

// With up to 4 rows an item, of a lane and a pass, is a quarter of a unit of a row; a row's slice from unit `first` on
// has ITEMS of them.
template <int M, int K, int UNITS, int UNIT, int ITEMS, bool WHOLE, int PASSES, int N, typename T>
METAL_FUNC void bring_items(thread uint (&values)[PASSES][N], const device T* x, uint lane, uint first) {
#pragma unroll
  for (int p = 0; p < PASSES; p++) {
    uint item = lane + 32u * p;
    uint unit = first + item % ITEMS / 4;
    bool inside = (WHOLE || unit < uint(UNITS)) && (M * ITEMS % 32 == 0 || item < uint(M * ITEMS));
    bring(values[p], x + item / ITEMS * K + unit * UNIT + item % 4 * (2 * N), inside);
  }
}

// The norm's gain for a lane's items; with more than 4 rows (OWN) for its quarter of each unit.
template <bool OWN, int UNITS, int UNIT, int ITEMS, bool NORM, bool WHOLE, int PASSES, int N, typename T>
METAL_FUNC void bring_gains(thread uint (&gains)[PASSES][N], const device T* gain, uint lane, uint first) {
#pragma unroll
  for (int p = 0; p < PASSES; p++) {
    uint unit = first + (OWN ? uint(p) : (lane + 32u * p) % ITEMS / 4);
    bring(gains[p], gain + unit * UNIT + lane % 4 * (2 * N), NORM && (WHOLE || unit < uint(UNITS)));
  }
}

// With more than 4 rows a lane makes the numbers that it multiplies: those of its quarter of a unit of row lane / 4. Then
// rows of x are copied ahead to [unit][step][row of 8][part], lanes side by side in pieces of 16 bytes. Odd steps have
// neighbouring rows exchanged, so that a unit's pieces go to different banks.
template <int STEPS>
METAL_FUNC uint piece_place(uint unit, uint step, uint row, uint part) {
  return (unit * STEPS + step) * 32u + ((row * 4u + part) ^ (step % 2u * 4u));
}
template <int M, int K, int UNITS, int STEPS, int SLICE, bool WHOLE, typename T>
METAL_FUNC void copy_rows(threadgroup uint4* pieces, const device T* x, uint first, uint lane) {
  constexpr uint OF_UNIT = 4 * STEPS;
#pragma unroll
  for (uint i = 0; i < (M * SLICE * OF_UNIT + 31) / 32; i++) {
    uint at = lane + 32u * i;
    uint piece = at % OF_UNIT;
    uint u = at / OF_UNIT % SLICE;
    uint m = at / (OF_UNIT * SLICE);
    if (m < uint(M)) {
      threadgroup uint4* to = pieces + piece_place<STEPS>(u, piece % STEPS, m, piece / STEPS);
      if (WHOLE || first + u < uint(UNITS)) {
        copy_ahead(to, (const device uint4*)(x + m * K + ((first + u) * OF_UNIT + piece) * 8u));
      } else {
        *to = uint4(0u, 0u, 0u, 0u);
      }
    }
  }
}
template <int M, int STEPS>
METAL_FUNC void take_rows(thread uint (&words)[4 * STEPS], const threadgroup uint4* pieces, uint u, uint lane) {
bool inside = M == 8 || lane / 4 < uint(M);
#pragma unroll
  for (int t = 0; t < STEPS; t++) {
    uint4 taken = uint4(0u, 0u, 0u, 0u);
    if (inside) {
      taken = pieces[piece_place<STEPS>(u, uint(t), lane / 4, lane % 4)];
    }
    words[4 * t] = taken.x;
    words[4 * t + 1] = taken.y;
    words[4 * t + 2] = taken.z;
    words[4 * t + 3] = taken.w;
  }
}

// The bits of the largest magnitude: NaN's are above all others. As integers with signs the largest positive number is
// above all, without them the largest negative one: of the two the one without its sign that is larger.
template <int V>
METAL_FUNC uint largest_bits(thread float (&v)[V]) {
  int above = as_type<int>(v[0]);
  uint below = as_type<uint>(v[0]);
#pragma unroll
  for (int e = 1; e < V; e++) {
    above = metal::max(above, as_type<int>(v[e]));
    below = metal::max(below, as_type<uint>(v[e]));
  }
  return metal::max(uint(above) & 0x7fffffffu, below & 0x7fffffffu);
}

// The same of pairs in words, as a float's bits.
template <typename T, int N>
METAL_FUNC uint largest_bits_of(thread uint (&words)[N]) {
  uint above = words[0];
  uint below = words[0];
#pragma unroll
  for (int e = 1; e < N; e++) {
    above = max_signed_pairs(above, words[e]);
    below = max_pairs(below, words[e]);
  }
  uint largest = max_pairs(above & 0x7fff7fffu, below & 0x7fff7fffu);
  largest = metal::max(largest & 0xffffu, largest >> 16);
  return metal::is_same_v<T, bfloat> ? largest << 16 : as_type<uint>(float(as_type<half>(ushort(largest))));
}

// A lane's quarter of a unit of x (times the gain where NORM) in planes of bytes of whole numbers, low ones and high ones.
// Adds the squares of x to `squared`; returns 1 / the power of two that the whole unit was multiplied by.
template <int BITS, bool NORM, typename T, int N, int STEPS>
METAL_FUNC float as_numbers(thread uint (&words)[N], thread uint (&gains)[N], thread uint4 (&planes)[STEPS],
                            thread float& squared) {
  float v[2 * N];
#pragma unroll
  for (int e = 0; e < 2 * N; e++) {
    v[e] = element<T>(words, e);
    squared = NORM ? metal::fma(v[e], v[e], squared) : 0.0f;
    v[e] = NORM ? v[e] * element<T>(gains, e) : v[e];
  }
  uint largest = NORM ? largest_bits(v) : largest_bits_of<T>(words);
  largest = metal::max(largest, simd_shuffle_xor(largest, ushort(1)));
  largest = metal::max(largest, simd_shuffle_xor(largest, ushort(2)));
  // 2^exponent is above all values, and not so close that rounding gets there.
  uint exponent = metal::max((largest + 0x100u) >> 23, 20u);
  float power = as_type<float>((268u - metal::min(exponent, 254u)) << 23);
  uint n[2 * N];                                                    // in its low 16 bits
#pragma unroll
  for (int e = 0; e < 2 * N; e++) {
    n[e] = as_type<uint>(metal::fma(v[e], power, 12582912.0f));
  }
#pragma unroll
  for (int t = 0; t < STEPS; t++) {
    constexpr int A = BITS == 4 ? 2 : 1;                            // of a word with 4 bits: even values, then odd ones
    constexpr int B = BITS == 4 ? 1 : 4;
    thread uint* s = n + 8 * t;
    planes[t] = planes_of(s[0], s[A], s[2 * A], s[3 * A], s[B], s[B + A], s[B + 2 * A], s[B + 3 * A]);
  }
  return as_type<float>(exponent > 254u ? 0x7fc00000u : (exponent - 14u) << 23);
}

// A lane's numbers, added.
template <int STEPS>
METAL_FUNC int sum_of(thread uint4 (&planes)[STEPS]) {
  int low = 0;
  int high = 0;
#pragma unroll
  for (int t = 0; t < STEPS; t++) {
    low += sum_bytes<false>(planes[t].x) + sum_bytes<false>(planes[t].y);
    high += sum_bytes<true>(planes[t].z) + sum_bytes<true>(planes[t].w);
  }
  return low + 256 * high;
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

// With more than 4 rows: out of the lane's own numbers, the rest from those that have it.
template <int STEPS>
METAL_FUNC void own_unit(thread Unit<STEPS>& unit, thread uint4 (&planes)[STEPS], float inverse, uint lane) {
  int sums[4] = {0, 0, 0, 0};
  uint ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
#pragma unroll
  for (int t = 0; t < STEPS; t++) {
    unit.b[t][0] = planes[t].x;
    unit.b[t][1] = planes[t].y;
    unit.b[t][2] = planes[t].z;
    unit.b[t][3] = planes[t].w;
    multiply_bytes<true>(sums, ones, unit.b[t][2], unit.b[t][3]);
  }
  sums[0] *= 256;
  sums[1] *= 256;
#pragma unroll
  for (int t = 0; t < STEPS; t++) {
    multiply_bytes<false>(sums, ones, unit.b[t][0], unit.b[t][1]);
  }
  for (int e = 0; e < 2; e++) {
    unit.inverses[e] = simd_shuffle(inverse, ushort(4 * (2 * (lane % 4) + e)));
    unit.sums[e] = unit.inverses[e] * float(sums[e]);
  }
}

// With fewer: out of threadgroup memory.
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
