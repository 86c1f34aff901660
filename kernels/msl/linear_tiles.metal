// linear_tiles.metal: y = act(norm(x) W^T + bias) + residual for 1..8 rows, on the matrix units.
//
// Every simdgroup keeps its slice of k for all 8 rows of x in tiles (rows that are not there are zero), and multiplies
// it with pairs of 8-row tiles of W; the simdgroups' sums are added at the end. So a weight is read once, its cost does
// not depend on the number of rows, and neither do the bits of a row.
//
// x [M, K]; w [R, K] packed; scales, biases [R, K / GROUP]; bias [R]; gain [K]; residual [M, O]; y [M, O].
// R = 2 O where GATED (rows of W: gates, then ups), else O. T: float16 or bfloat16.
//
// A packed value q of 4 bits becomes the float 16 + q by setting bits of its mantissa, without arithmetic; an 8-bit
// value becomes 256 + 16 high and 16 + low. The offset goes where the quantisation bias goes: times the sum of x.
#include "tile.metal"
#include "packed.metal"
#include "activation.metal"

// Values per word, and the distance within a word of the two values that a lane gives to one tile.
template <int BITS> METAL_FUNC constexpr int values_per_word() { return 32 / BITS; }
template <int BITS> METAL_FUNC constexpr int pair_distance() { return 16 / BITS; }

// The masked nibbles at bits 0..3 and 16..19 of `word` shifted by `nibble` as two numbers BASE + q, BASE = 2^EXPONENT
// worth 16 (or 256, and the nibble 16-fold).
template <typename T, bool HIGH>
METAL_FUNC vec<T, 2> numbers(uint word, int shift) {
  constexpr bool wide = metal::is_same_v<T, bfloat>;
  constexpr int place = wide ? 3 : 6;                     // of the nibble in the mantissa
  constexpr uint mask = wide ? 0x00780078u : 0x03c003c0u;
  constexpr uint base = wide ? (HIGH ? 0x43804380u : 0x41804180u) : (HIGH ? 0x5c005c00u : 0x4c004c00u);
  uint moved = shift > place ? word >> (shift - place) : word << (place - shift);
  return as_type<vec<T, 2>>((moved & mask) | base);
}

template <typename T>
METAL_FUNC void set_pair(thread Tile<T>& tile, vec<T, 2> pair) {
  tile.thread_elements()[0] = pair.x;
  tile.thread_elements()[1] = pair.y;
}

// c0 and c1 += the tiles in wa and wb times b. V values a lane, so V / 2 tiles.
template <int BITS, int V, int W, typename T>
METAL_FUNC void multiply_words(thread Tile<float>& c0, thread Tile<float>& c1, thread uint (&wa)[W],
                               thread uint (&wb)[W], thread Tile<T> (&b)[V / 2]) {
  constexpr int per = pair_distance<BITS>();
#pragma unroll
  for (int s = 0; s < V / 2; s += 2) {
    Tile<T> a0[2];
    Tile<T> a1[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      uint word0 = wa[(s + e) / per];
      uint word1 = wb[(s + e) / per];
      if constexpr (BITS == 16) {
        set_pair(a0[e], as_type<vec<T, 2>>(word0));
        set_pair(a1[e], as_type<vec<T, 2>>(word1));
      } else {
        int shift = BITS * ((s + e) % per);
        set_pair(a0[e], numbers<T, false>(word0, shift));
        set_pair(a1[e], numbers<T, false>(word1, shift));
      }
    }
    multiply(c0, c1, a0, a1, b[s], b[s + 1]);
    if constexpr (BITS == 8) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        int shift = BITS * ((s + e) % per) + 4;
        set_pair(a0[e], numbers<T, true>(wa[(s + e) / per], shift));
        set_pair(a1[e], numbers<T, true>(wb[(s + e) / per], shift));
      }
      multiply(c0, c1, a0, a1, b[s], b[s + 1]);
    }
  }
}

template <typename T>
METAL_FUNC void clear(thread Tile<T>& tile) {
  set_pair(tile, vec<T, 2>(T(0.0f)));
}

// Column sums of V / 2 tiles, in every row: the product with ones.
template <int V, typename T>
METAL_FUNC void column_sums(thread Tile<float>& sums, thread Tile<T> (&b)[V / 2]) {
  Tile<float> unused;
  Tile<T> ones[2];
  clear(sums);
  clear(unused);
  set_pair(ones[0], vec<T, 2>(T(1.0f)));
  set_pair(ones[1], vec<T, 2>(T(1.0f)));
#pragma unroll
  for (int s = 0; s < V / 2; s += 2) {
    multiply(sums, unused, ones, ones, b[s], b[s + 1]);
  }
}

// acc += scale c + (bias - offset scale) sums
METAL_FUNC void add_scaled(thread float (&acc)[2], thread Tile<float>& c, float scale, float bias, float offset,
                           thread Tile<float>& sums) {
  float shift = metal::fma(-offset, scale, bias);
  for (int e = 0; e < 2; e++) {
    float s = sums.thread_elements()[e];
    float v = c.thread_elements()[e];
    acc[e] = metal::fma(scale, v, metal::fma(shift, s, acc[e]));
  }
}

// ---- body
  constexpr int UNIT = BITS == 16 ? 32 : (GROUP < 64 ? 32 : 64);    // k of one load: 4 lanes of V values
  constexpr int V = UNIT / 4;
  constexpr int W = V * BITS / 32;
  constexpr int UNITS = K / UNIT;
  constexpr int CHUNKS = (UNITS + SIMDS * SLICE - 1) / (SIMDS * SLICE);
  constexpr bool RAGGED = UNITS % (SIMDS * SLICE) != 0;
  constexpr bool PACKED = BITS != 16;
  constexpr int PER_GROUP = PACKED ? GROUP / UNIT : 1;              // units of one scale
  constexpr int GROUPS = PACKED ? K / (UNIT * PER_GROUP) : 1;
  constexpr int SCALES = SLICE / PER_GROUP;                         // of one slice
  constexpr int STEP = GROUPS % 4 == 0 && SCALES % 4 == 0 ? 4 : (GROUPS % 2 == 0 && SCALES % 2 == 0 ? 2 : 1);
  constexpr float OFFSET = BITS == 4 ? 16.0f : 272.0f;
  constexpr bool GATED = ACT == 1 || ACT == 2;
  constexpr int R = GATED ? 2 * O : O;
  constexpr int OUTS = GATED ? 8 * PAIRS : 16 * PAIRS;              // outputs of this threadgroup
  constexpr int WORDS = K * BITS / 32;                              // of one row

  // A simdgroup's own: first to bring x into tiles (8 UNIT elements of T), in the end its sums.
  constexpr int OWN = 4 * UNIT > PAIRS * 16 * M ? 4 * UNIT : PAIRS * 16 * M;
  threadgroup float own[SIMDS * OWN];
  threadgroup float squares[SIMDS * 8];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint group = threadgroup_position_in_grid.x;
  uint row = tile_row(lane);
  uint column = tile_column(lane);
  uint part = column / 2;                                           // which quarter of a unit
  uint xrow = lane / 4;                                             // which row and quarter of x to bring
  uint xpart = lane % 4;

  float acc[PAIRS][2][2];
#pragma unroll
  for (int p = 0; p < PAIRS; p++) {
    for (int e = 0; e < 2; e++) {
      acc[p][0][e] = 0.0f;
      acc[p][1][e] = 0.0f;
    }
  }

  float inverse = 1.0f;
  if (NORM) {
    float square = 0.0f;
    for (uint unit = simd; unit < uint(UNITS); unit += SIMDS) {
      if (xrow < uint(M)) {
        float v[V];
        load_floats<4>(x + xrow * K + unit * UNIT + xpart * V, v);
#pragma unroll
        for (int i = 0; i < V; i++) {
          square = metal::fma(v[i], v[i], square);
        }
      }
    }
    square += simd_shuffle_xor(square, ushort(1));
    square += simd_shuffle_xor(square, ushort(2));
    if (xpart == 0) {
      squares[simd * 8 + xrow] = square;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float total = 0.0f;
    for (int s = 0; s < SIMDS; s++) {
      total += squares[s * 8 + xrow];
    }
    inverse = metal::precise::rsqrt(total / float(K) + as_type<float>(EPS));
  }

  for (int chunk = 0; chunk < CHUNKS; chunk++) {
    uint first = (chunk * SIMDS + simd) * SLICE;                    // this slice's first unit
    bool inside = !RAGGED || first < uint(UNITS);
    first = inside ? first : 0;                                     // a slice past the end: x is zero, W is any

    // This slice of x, as tiles.
    Tile<T> b[SLICE][V / 2];
    Tile<float> xsums[SLICE];
#pragma unroll
    for (int u = 0; u < SLICE; u++) {
      uint k = (first + u) * UNIT + xpart * V;
      vec<T, 2> pairs[V / 2];
      if (xrow < uint(M) && inside) {
        float v[V];
        load_floats<4>(x + xrow * K + k, v);
        if (NORM) {
          float g[V];
          load_floats<4>(gain + k, g);
#pragma unroll
          for (int i = 0; i < V; i++) {
            v[i] = v[i] * inverse * g[i];
          }
        }
#pragma unroll
        for (int s = 0; s < V / 2; s++) {
          int i = s / pair_distance<BITS>() * values_per_word<BITS>() + s % pair_distance<BITS>();
          pairs[s] = vec<T, 2>(T(v[i]), T(v[i + pair_distance<BITS>()]));
        }
      } else {
#pragma unroll
        for (int s = 0; s < V / 2; s++) {
          pairs[s] = vec<T, 2>(T(0.0f));
        }
      }
      columns_of_rows(pairs, b[u], (threadgroup T*)(own + simd * OWN), lane);
      if constexpr (PACKED) {
        column_sums<V>(xsums[u], b[u]);
      }
    }

#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
      uint row0 = GATED ? (group * PAIRS + p) * 8 + row : (group * PAIRS + p) * 16 + row;
      uint row1 = GATED ? row0 + O : row0 + 8;
      row0 = metal::min(row0, uint(R - 1));                         // rows past the end: computed, not stored
      row1 = metal::min(row1, uint(R - 1));

      uint words0[SLICE][W];
      uint words1[SLICE][W];
#pragma unroll
      for (int u = 0; u < SLICE; u++) {
        load_words(w + size_t(row0) * WORDS + ((first + u) * 4 + part) * W, words0[u]);
        load_words(w + size_t(row1) * WORDS + ((first + u) * 4 + part) * W, words1[u]);
      }
      float scale0[PACKED ? SCALES : 1];
      float scale1[PACKED ? SCALES : 1];
      float bias0[PACKED ? SCALES : 1];
      float bias1[PACKED ? SCALES : 1];
      if constexpr (PACKED) {
        uint g = first / PER_GROUP;
        load_floats<STEP>(scales + size_t(row0) * GROUPS + g, scale0);
        load_floats<STEP>(scales + size_t(row1) * GROUPS + g, scale1);
        load_floats<STEP>(biases + size_t(row0) * GROUPS + g, bias0);
        load_floats<STEP>(biases + size_t(row1) * GROUPS + g, bias1);
      }
#pragma unroll
      for (int u = 0; u < SLICE; u++) {
        Tile<float> c0;
        Tile<float> c1;
        clear(c0);
        clear(c1);
        multiply_words<BITS, V>(c0, c1, words0[u], words1[u], b[u]);
        if constexpr (PACKED) {
          add_scaled(acc[p][0], c0, scale0[u / PER_GROUP], bias0[u / PER_GROUP], OFFSET, xsums[u]);
          add_scaled(acc[p][1], c1, scale1[u / PER_GROUP], bias1[u / PER_GROUP], OFFSET, xsums[u]);
        } else {
          for (int e = 0; e < 2; e++) {
            acc[p][0][e] += c0.thread_elements()[e];
            acc[p][1][e] += c1.thread_elements()[e];
          }
        }
      }
    }
  }

  // This simdgroup's sums: [tile][row of the tile][row of x].
#pragma unroll
  for (int p = 0; p < PAIRS; p++) {
    for (int h = 0; h < 2; h++) {
      for (int e = 0; e < 2; e++) {
        if (column + e < uint(M)) {
          own[simd * OWN + ((p * 2 + h) * 8 + row) * M + column + e] = acc[p][h][e];
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (uint i = thread_index_in_threadgroup; i < uint(OUTS * M); i += SIMDS * 32) {
    uint m = i / OUTS;
    uint out = i % OUTS;
    uint o = group * OUTS + out;
    if (o < uint(O)) {
      uint at = GATED ? (out / 8) * 16 + out % 8 : out;
      float v = 0.0f;
      float up = 0.0f;
      for (int s = 0; s < SIMDS; s++) {
        v += own[s * OWN + at * M + m];
        if (GATED) {
          up += own[s * OWN + (at + 8) * M + m];
        }
      }
      if (BIAS) {
        v += float(bias[o]);
        up += GATED ? float(bias[o + O]) : 0.0f;
      }
      float addend = RESIDUAL ? float(residual[size_t(m) * O + o]) : 0.0f;
      y[size_t(m) * O + o] = T(finished<ACT>(v, up, addend));
    }
  }
