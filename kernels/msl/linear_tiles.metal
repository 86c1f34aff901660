// linear_tiles.metal: y = act(norm(x) W^T + bias) + residual for 1..8 rows, on the matrix units.
//
// The simdgroups of a threadgroup share k. Each keeps its slice of all 8 rows of x in tiles (rows that are not there
// are zero) and goes through pairs of 8-row tiles of W; in the end the simdgroups' sums are added. The loads of DEPTH
// pairs are under way: a pair is loaded into the registers of the one that was multiplied last.
// So a weight is read once, at a cost that does not depend on the number of rows; neither do a row's bits.
//
// x [M, K]; w [R, K] packed, or plain 16-bit pairs; scales and biases [2, R, K / GROUP]; bias [R]; gain [K], see
// gain_of; residual [M, O]; y [M, O]. R = 2 O where gated (rows of W: gates, then ups), else O. T: float16 or bfloat16.
//
// A packed value q becomes the number BASE + q by setting bits of its mantissa, without arithmetic; an 8-bit value is two
// nibbles, of which the high one becomes 16 (BASE + q). The products start from - offset * (sum of x), not from zero.
// The norm's gain is applied to x, its 1 / rms to the sums, when all of x has been seen.
#include "tile.metal"
#include "packed.metal"
#include "activation.metal"

// Distance within a word of the two values that a lane gives to one tile; there are twice as many in a word.
template <int BITS> METAL_FUNC constexpr int pair_distance() { return 16 / BITS; }

// BASE of numbers below.
template <typename T> METAL_FUNC constexpr float number_base() { return metal::is_same_v<T, bfloat> ? 128.0f : 64.0f; }

// The nibbles of `word` at bits `shift` and `shift` + 16 as numbers BASE + q, or 16 (BASE + q).
template <typename T, bool HIGH>
METAL_FUNC vec<T, 2> numbers(uint word, int shift) {
  constexpr bool wide = metal::is_same_v<T, bfloat>;
  constexpr int place = wide ? 0 : 4;  // of the nibble in the mantissa
  constexpr uint mask = wide ? 0x000f000fu : 0x00f000f0u;
  constexpr uint base = wide ? (HIGH ? 0x45004500u : 0x43004300u) : (HIGH ? 0x64006400u : 0x54005400u);
  uint moved = shift > place ? word >> (shift - place) : word << (place - shift);
  return as_type<vec<T, 2>>(masked_or(moved, mask, base));
}

// Tile s of what a lane has loaded: plain, the values themselves or their low nibbles; HIGH, their high nibbles.
template <int BITS, bool HIGH, typename T, int W>
METAL_FUNC void set_weights(thread Tile<T>& tile, thread uint (&words)[W], int s) {
  constexpr int per = pair_distance<BITS>();
  if constexpr (BITS == 16) {
    set_pair(tile, as_type<vec<T, 2>>(words[s]));
  } else {
    set_pair(tile, numbers<T, HIGH>(words[s / per], BITS * (s % per) + (HIGH ? 4 : 0)));
  }
}

// c0 and c1 += two rows of tiles times the column of tiles b.
template <int BITS, bool HIGH, typename T, int W, int TILES>
METAL_FUNC void multiply_words(thread Tile<float>& c0, thread Tile<float>& c1, thread uint (&words0)[W],
                               thread uint (&words1)[W], thread Tile<T> (&b)[TILES]) {
#pragma unroll
  for (int s = 0; s < TILES; s += 2) {
    Tile<T> a0[2];
    Tile<T> a1[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      set_weights<BITS, HIGH>(a0[e], words0, s + e);
      set_weights<BITS, HIGH>(a1[e], words1, s + e);
    }
    multiply(c0, c1, a0, a1, b[s], b[s + 1]);
  }
}

// sums += the sums of the columns of b, in every row: the product with ones.
template <typename T, int TILES>
METAL_FUNC void add_columns(thread Tile<float>& sums, thread Tile<T> (&b)[TILES]) {
  Tile<float> unused;
  Tile<T> ones[2];
  clear(unused);
  set_pair(ones[0], vec<T, 2>(T(1.0f)));
  set_pair(ones[1], vec<T, 2>(T(1.0f)));
#pragma unroll
  for (int s = 0; s < TILES; s += 2) {
    multiply(sums, unused, ones, ones, b[s], b[s + 1]);
  }
}

// The diagonal of `squares` += the squared lengths of the columns of b, whose transpose the lanes' pairs are.
template <typename T, int TILES>
METAL_FUNC void add_squares(thread Tile<float>& squares, thread vec<T, 2> (&pairs)[TILES], thread Tile<T> (&b)[TILES]) {
  Tile<float> unused;
  clear(unused);
#pragma unroll
  for (int s = 0; s < TILES; s += 2) {
    Tile<T> a[2];
    set_pair(a[0], pairs[s]);
    set_pair(a[1], pairs[s + 1]);
    multiply(squares, unused, a, a, b[s], b[s + 1]);
  }
}

// acc + scale c + bias sums
METAL_FUNC float2 add_scaled(float2 acc, thread Tile<float>& c, float scale, float bias, thread Tile<float>& sums) {
  float x = metal::fma(bias, sums.thread_elements()[0], acc.x);
  float y = metal::fma(bias, sums.thread_elements()[1], acc.y);
  return float2(metal::fma(scale, c.thread_elements()[0], x), metal::fma(scale, c.thread_elements()[1], y));
}

// What a lane loads of one row of W for one slice of k. Scales stay packed in words: they wait in registers.
template <int SLICE, int W, int SCALES>
struct Row {
  uint words[SLICE][W];
  uint scales[(SCALES + 1) / 2];
  uint biases[(SCALES + 1) / 2];
};

// A lane's row of tile h of a threadgroup's pair: of a gate and its up, or of two tiles that follow one another.
template <int O, int OUTS, bool GATED>
METAL_FUNC size_t matrix_row(uint group, uint pair, uint row, int h) {
  uint own = GATED ? pair * 8 + row : pair * 16 + row + h * 8;
  // Past the end: the last row again, which is in a cache; computed, not stored.
  uint r = metal::min(group * OUTS + metal::min(own, uint(OUTS - 1)), uint(O - 1));
  return GATED && h == 1 ? r + O : r;
}

// The first unit of a simdgroup's slice of a chunk; past the end: unit 0, whose products are with zeros.
template <int UNITS, int SLICE, int SIMDS>
METAL_FUNC uint first_unit(int chunk, uint simd) {
  uint unit = (uint(chunk) * SIMDS + simd) * SLICE;
  return UNITS % (SIMDS * SLICE) == 0 || unit < uint(UNITS) ? unit : 0u;
}

template <int SLICE, int W, int SCALES>
METAL_FUNC void load_slice(thread Row<SLICE, W, SCALES>& row, const device uint* w) {
#pragma unroll
  for (int u = 0; u < SLICE; u++) {
    load_words(w + 4 * W * u, row.words[u]);
  }
}

// `at` is where the slice's first scale stands.
template <int STEP, typename T, int SLICE, int W, int SCALES>
METAL_FUNC void load_scales(thread Row<SLICE, W, SCALES>& row, const device T* scales, const device T* biases, size_t at) {
  if constexpr (STEP > 0) {
    load_pairs<STEP, SCALES>(scales + at, row.scales);
    load_pairs<STEP, SCALES>(biases + at, row.biases);
  }
}

// A lane's part of a slice of x, whose next unit is 8 TILES values further; zero where `inside` is not.
template <typename T, int SLICE, int TILES>
METAL_FUNC void bring_slice(thread uint (&words)[SLICE][TILES], const device T* from, bool inside) {
#pragma unroll
  for (int u = 0; u < SLICE; u++) {
#pragma unroll
    for (int s = 0; s < TILES; s++) {
      words[u][s] = 0u;
    }
    if (inside) {
      bring(words[u], from + u * 8 * TILES);
    }
  }
}

template <typename T, int TILES>
METAL_FUNC void as_pairs(thread vec<T, 2> (&pairs)[TILES], thread uint (&words)[TILES]) {
#pragma unroll
  for (int s = 0; s < TILES; s++) {
    pairs[s] = as_type<vec<T, 2>>(words[s]);
  }
}

// Neighbours in pairs become the pairs that the packing gives to a tile.
template <int BITS, typename T, int TILES>
METAL_FUNC void as_packed(thread vec<T, 2> (&pairs)[TILES]) {
  constexpr int per = pair_distance<BITS>();
  if constexpr (per > 1) {
#pragma unroll
    for (int w = 0; w < TILES; w += per) {
      vec<T, 2> near[per];
#pragma unroll
      for (int i = 0; i < per; i++) {
        near[i] = pairs[w + i];
      }
#pragma unroll
      for (int i = 0; i < per; i += 2) {
        pairs[w + i] = vec<T, 2>(near[i / 2].x, near[(i + per) / 2].x);
        pairs[w + i + 1] = vec<T, 2>(near[i / 2].y, near[(i + per) / 2].y);
      }
    }
  }
}

// ---- body
  constexpr int UNIT = BITS == 16 || GROUP < 64 ? 32 : 64;          // k of one load: 4 lanes of V values
  constexpr int V = UNIT / 4;
  constexpr int W = V * BITS / 32;
  constexpr int UNITS = K / UNIT;
  constexpr int CHUNKS = (UNITS + SIMDS * SLICE - 1) / (SIMDS * SLICE);
  constexpr bool PACKED = BITS != 16;
  constexpr int PER_GROUP = PACKED ? GROUP / UNIT : SLICE;          // units of one scale
  constexpr int GROUPS = UNITS / PER_GROUP;
  constexpr int SCALES = SLICE / PER_GROUP;                         // of one slice
  constexpr int EVEN = GROUPS % 4 == 0 && SCALES % 4 == 0 ? 4 : (GROUPS % 2 == 0 && SCALES % 2 == 0 ? 2 : 1);
  constexpr int STEP = PACKED ? EVEN : 0;                           // scales in one load
  constexpr float OFFSET = PACKED ? number_base<T>() * (BITS == 8 ? 17.0f : 1.0f) : 0.0f;
  constexpr bool GATED = ACT == 1 || ACT == 2;
  constexpr int PAIRS = GATED ? (OUTS + 7) / 8 : (OUTS + 15) / 16;  // OUTS: outputs of this threadgroup
  constexpr int TURNS = CHUNKS * PAIRS;
  constexpr int WORDS = K * BITS / 32;                              // of one row
  constexpr size_t TABLE = PACKED ? size_t(GATED ? 2 : 1) * O * GROUPS : 0;
  auto biases = scales + TABLE;
  auto norm_gain = gain_of<BEHIND>(scales, 2 * TABLE, gain);

  // A simdgroup's own: room to bring x into tiles, and its sums.
  constexpr int ROOM = tile_room(V / 2) / 2;
  constexpr int OWN = ROOM + PAIRS * 16 * M;
  threadgroup float shared[SIMDS * OWN];
  threadgroup float squares[SIMDS * 8];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint group = threadgroup_position_in_grid.x;
  uint row = tile_row(lane);
  uint column = tile_column(lane);
  uint part = column / 2;                                           // which quarter of a unit
  threadgroup float* own = shared + simd * OWN;

  Row<SLICE, W, SCALES> ring[DEPTH][2];
  uint coming[SLICE][V / 2];                                        // the next slice of x, two values a word
  Tile<T> b[SLICE][V / 2];
  Tile<float> xsums[SLICE];
  Tile<float> lengths;                                              // of the rows of x, squared, on the diagonal
  clear(lengths);

#pragma unroll
  for (int d = 0; d < DEPTH; d++) {
    if (d < TURNS) {
      uint at = first_unit<UNITS, SLICE, SIMDS>(d / PAIRS, simd);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        size_t r = matrix_row<O, OUTS, GATED>(group, d % PAIRS, row, h);
        load_slice(ring[d][h], w + r * WORDS + (at * 4 + part) * W);
        load_scales<STEP>(ring[d][h], scales, biases, r * GROUPS + at / PER_GROUP);
      }
    }
  }
  float early = 0.0f;                                               // the first residual of this thread, long before its use
  if (RESIDUAL && thread_index_in_threadgroup < uint(OUTS * M)) {
    uint o = metal::min(group * OUTS + thread_index_in_threadgroup / M, uint(O - 1));
    early = float(residual[size_t(thread_index_in_threadgroup % M) * O + o]);
  }
  uint first = first_unit<UNITS, SLICE, SIMDS>(0, simd);            // of this slice
  bring_slice(coming, x + row * K + first * UNIT + part * V, simd * SLICE < uint(UNITS) && row < uint(M));

  for (int t0 = 0; t0 < TURNS; t0 += DEPTH) {
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      int t = t0 + d;
      if (t < TURNS) {
        int chunk = t / PAIRS;
        int turn = t % PAIRS;
        if (turn == 0) {
#pragma unroll
          for (int u = 0; u < SLICE; u++) {
            vec<T, 2> pairs[V / 2];
            as_pairs(pairs, coming[u]);
            if constexpr (NORM) {
              uint words[V / 2];
              vec<T, 2> gains[V / 2];
              bring(words, norm_gain + (first + u) * UNIT + part * V);
              as_pairs(gains, words);
              columns_of_rows(pairs, b[u], (threadgroup T*)own, lane);
              add_squares(lengths, pairs, b[u]);
#pragma unroll
              for (int s = 0; s < V / 2; s++) {
                pairs[s] = products(pairs[s], gains[s]);
              }
            }
            as_packed<BITS>(pairs);
            columns_of_rows(pairs, b[u], (threadgroup T*)own, lane);
            if constexpr (PACKED) {
              clear(xsums[u]);
              add_columns(xsums[u], b[u]);
            }
          }
          first = first_unit<UNITS, SLICE, SIMDS>(chunk + 1, simd);
          if (chunk + 1 < CHUNKS) {                                 // past the end x is zero, and W any
            bool inside = ((chunk + 1) * SIMDS + simd) * SLICE < uint(UNITS);
            bring_slice(coming, x + row * K + first * UNIT + part * V, inside && row < uint(M));
          }
        }

        float2 acc[2];
        acc[0] = float2(0.0f);
        acc[1] = float2(0.0f);
#pragma unroll
        for (int u = 0; u < SLICE; u++) {
          Tile<float> c[2];
          for (int h = 0; h < 2; h++) {
            clear(c[h]);
            if constexpr (PACKED) {
              c[h].thread_elements()[0] = -OFFSET * xsums[u].thread_elements()[0];
              c[h].thread_elements()[1] = -OFFSET * xsums[u].thread_elements()[1];
            }
          }
          multiply_words<BITS, false>(c[0], c[1], ring[d][0].words[u], ring[d][1].words[u], b[u]);
          if constexpr (BITS == 8) {
            multiply_words<BITS, true>(c[0], c[1], ring[d][0].words[u], ring[d][1].words[u], b[u]);
          }
          for (int h = 0; h < 2; h++) {
            if constexpr (PACKED) {
              float scale = element<T>(ring[d][h].scales, u / PER_GROUP);
              float bias = element<T>(ring[d][h].biases, u / PER_GROUP);
              acc[h] = add_scaled(acc[h], c[h], scale, bias, xsums[u]);
            } else {
              acc[h] = acc[h] + float2(c[h].thread_elements()[0], c[h].thread_elements()[1]);
            }
          }
        }
        if (t + DEPTH < TURNS) {
          uint at = first_unit<UNITS, SLICE, SIMDS>((t + DEPTH) / PAIRS, simd);
#pragma unroll
          for (int h = 0; h < 2; h++) {
            size_t r = matrix_row<O, OUTS, GATED>(group, (t + DEPTH) % PAIRS, row, h);
            load_slice(ring[d][h], w + r * WORDS + (at * 4 + part) * W);
            load_scales<STEP>(ring[d][h], scales, biases, r * GROUPS + at / PER_GROUP);
          }
        }

        // This simdgroup's sums: [tile][row of the tile][row of x]. A lane adds to what it wrote itself.
        for (int h = 0; h < 2; h++) {
          threadgroup float* sums = own + ROOM + ((turn * 2 + h) * 8 + row) * M + column;
          for (int e = 0; e < 2; e++) {
            if (column + e < uint(M)) {
              sums[e] = (chunk == 0 ? 0.0f : sums[e]) + acc[h][e];
            }
          }
        }
      }
    }
  }
  if (NORM) {
    for (int e = 0; e < 2; e++) {
      if (row == column + e) {
        squares[simd * 8 + row] = lengths.thread_elements()[e];
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (uint i = thread_index_in_threadgroup; i < uint(OUTS * M); i += SIMDS * 32) {
    uint m = i % M;
    uint out = i / M;
    uint o = group * OUTS + out;
    if (o < uint(O)) {
      uint at = GATED ? out / 8 * 16 + out % 8 : out;
      float v = 0.0f;
      float up = 0.0f;
      float length = 0.0f;
      for (int s = 0; s < SIMDS; s++) {
        length += NORM ? squares[s * 8 + m] : 0.0f;
        v += shared[s * OWN + ROOM + at * M + m];
        up += GATED ? shared[s * OWN + ROOM + (at + 8) * M + m] : 0.0f;
      }
      float factor = NORM ? metal::precise::rsqrt(length / float(K) + as_type<float>(EPS)) / product_scale<T>() : 1.0f;
      v = metal::fma(v, factor, BIAS ? float(bias[o]) : 0.0f);
      up = metal::fma(up, factor, BIAS && GATED ? float(bias[o + O]) : 0.0f);
      float addend = early;
      if (RESIDUAL && i >= uint(SIMDS * 32)) {
        addend = float(residual[size_t(m) * O + o]);
      }
      y[size_t(m) * O + o] = T(finished<ACT>(v, up, addend));
    }
  }
