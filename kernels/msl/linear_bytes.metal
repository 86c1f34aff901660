// linear_bytes.metal: y = act(norm(x) W^T + bias) + residual for 1..8 rows and packed W, by products of bytes.
//
// x becomes whole numbers of 16 bits: a unit of 64 values (32 where groups are not longer) times a power of two. That
// changes no bfloat16 above 1/128 of the unit's largest, and nothing by more than 1/32768 of it. The numbers stand in two
// planes of bytes, W's values are bytes, and a unit's products are summed without rounding: sum of q (256 high + low).
// A weight is read once. Neither the way of the sums nor a row's bits depend on the number of rows.
//
// The simdgroups of a threadgroup share k; each keeps its slice of x in registers and goes through pairs of 8-row tiles
// of W, of which DEPTH are on their way to threadgroup memory; in the end the simdgroups' sums are added.
//
// x [M, K]; w [R, K] packed; scales, biases [R, K / GROUP]; bias [R]; gain [K]; residual [M, O]; y [M, O].
// R = 2 O where gated (rows of W: gates, then ups), else O. T: float16 or bfloat16.
// The norm's gain is applied to x, its 1 / rms to the sums, when all of x has been seen.
#include "activation.metal"
#include "linear_numbers.metal"
#include "linear_stages.metal"

// A simdgroup's sums of a pair of tiles: [tile][row of the tile][row of x].
template <int M>
METAL_FUNC void store_sums(threadgroup float* sums, thread float (&acc)[2][2], uint row, uint part) {
  for (int h = 0; h < 2; h++) {
    for (int e = 0; e < 2; e++) {
      uint m = 2 * part + e;
      if (m < uint(M)) {
        sums[(h * 8 + row) * M + m] = acc[h][e];
      }
    }
  }
}

// The norm's 1 / rms of row m, or 1, out of the simdgroups' squares [SIMDS][8].
template <int SIMDS, int K, bool NORM>
METAL_FUNC float row_factor(const threadgroup float* squares, uint m, float eps) {
  float total = 0.0f;
  for (int s = 0; NORM && s < SIMDS; s++) {
    total += squares[s * 8 + m];
  }
  return NORM ? metal::precise::rsqrt(total / float(K) + eps) : 1.0f;
}

// An output out of the simdgroups' sums [SIMDS][PITCH], of which the gate's or the only one stands at `at`.
template <int SIMDS, int PITCH, int M, int O, int ACT, bool BIAS, typename T>
METAL_FUNC T finished_sum(const threadgroup float* sums, uint at, float factor, uint o, const device T* bias, float addend) {
  constexpr bool GATED = ACT == 1 || ACT == 2;
  float v = 0.0f;
  float up = 0.0f;
  for (int s = 0; s < SIMDS; s++) {
    v += sums[s * PITCH + at];
    up += GATED ? sums[s * PITCH + at + 8 * M] : 0.0f;
  }
  v = metal::fma(v, factor, BIAS ? float(bias[o]) : 0.0f);
  up = metal::fma(up, factor, BIAS && GATED ? float(bias[o + O]) : 0.0f);
  return T(finished<ACT>(v, up, addend));
}

// ---- body
  constexpr int UNIT = GROUP < 64 ? 32 : 64;                        // 4 lanes of V values
  constexpr int V = UNIT / 4;
  constexpr int W = V * BITS / 32;
  constexpr int STEPS = UNIT / 32;                                  // products of a unit, of 32 k each
  constexpr int UNITS = K / UNIT;
  constexpr int CHUNKS = (UNITS + SIMDS * SLICE - 1) / (SIMDS * SLICE);
  constexpr int PER_GROUP = GROUP / UNIT;                           // units of one scale
  constexpr int GROUPS = UNITS / PER_GROUP;
  constexpr int SCALES = SLICE / PER_GROUP;                         // of one slice
  constexpr bool GATED = ACT == 1 || ACT == 2;
  constexpr int TAKEN = OUTS < O ? OUTS : O;                        // outputs of this threadgroup
  constexpr int PAIRS = GATED ? (TAKEN + 7) / 8 : (TAKEN + 15) / 16;
  constexpr int AT_ONCE = chunks_at_once<CHUNKS, PAIRS, DEPTH>();
  constexpr int WORDS = K * BITS / 32;                              // of one row
  constexpr int ITEMS = 4 * SLICE;                                  // of a row of x: a lane's work in bringing it
  constexpr int PASSES = (M * ITEMS + 31) / 32;
  // Sums wait in registers for the end. Many, of many rows, are finished a few pairs at a time, while W comes, in the
  // place of x's numbers, which all have taken by then.
  constexpr bool STREAMED = M > 2 && CHUNKS == 1 && PAIRS > SLICE * STEPS;
  constexpr int TURN = STREAMED ? SLICE * STEPS : PAIRS;            // pairs whose sums are finished together
  constexpr int TILE_OUTS = GATED ? 8 : 16;                         // of a pair
  constexpr bool KEPT = M <= 4 || CHUNKS == 1 || SLICE * STEPS < 8;  // x in registers for all of W, else taken for each pair

  constexpr int PIECES = SLICE * W;                                 // of 16 bytes: a row's slice
  constexpr int STAGE = 16 * stage_pitch<PIECES, W>();              // a pair of tiles
  constexpr int SCALE_ROWS = (GATED ? 2 : 1) * TAKEN;
  constexpr int SCALE_PIECE = GROUPS % 8 == 0 ? 8 : (GROUPS % 4 == 0 ? 4 : 2);  // elements of one copy
  constexpr int SCALE_PITCH = GROUPS + (GROUPS % 16 == 0 ? 8 : 0);  // rows in different banks
  constexpr int SCALE_STEP = SCALE_PITCH % 4 == 0 && SCALES % 4 == 0 ? 4 : (SCALES % 2 == 0 ? 2 : 1);
  constexpr int SCALE_ROOM = (2 * SCALE_ROWS * SCALE_PITCH * 2 + 15) / 16;
  constexpr int FACTORS = (2 * SLICE * M + 3) / 4;
  constexpr int NUMBERS = STEPS * SLICE * M * 4 + FACTORS;          // of a simdgroup: its slice of x, and its factors
  constexpr int TURNING = SIMDS * DEPTH * STAGE;
  constexpr int SUMS = STREAMED ? 0 : (SIMDS * PAIRS * 16 * M + 3) / 4;  // in the same place, when all is multiplied
  constexpr int NEEDS = SCALE_ROOM + SIMDS * NUMBERS + (TURNING > SUMS ? TURNING : SUMS);
  static_assert(NEEDS <= STAGED, "more threadgroup memory than was asked for");
  static_assert(GROUPS % 2 == 0, "scales are copied in words");
  static_assert(PIECES % 2 == 0, "a stage is copied by all lanes");

  threadgroup uint4 staged[STAGED];
  threadgroup float squares[SIMDS * 8 + 8];                         // [simdgroup][row], then each row's 1 / rms
  threadgroup T* own_scales = (threadgroup T*)staged;               // [scales, biases][row][SCALE_PITCH]
  threadgroup uint4* stages = staged + SCALE_ROOM + SIMDS * NUMBERS;

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint row = lane / 4;
  uint part = lane % 4;                                             // which quarter of a unit
  uint begin = simd * SLICE;                                        // the simdgroup's first unit
  uint from = threadgroup_position_in_grid.x * TAKEN;               // the first output
  uint base = metal::min(from, uint(O - TAKEN));                    // the last threadgroup repeats some of the one before
  threadgroup uint4* own = stages + simd * DEPTH * STAGE;
  threadgroup uint4* numbers = staged + SCALE_ROOM + simd * NUMBERS;  // [unit][step][row][part]
  threadgroup float* shared = (threadgroup float*)(STREAMED ? staged + SCALE_ROOM : stages);  // the simdgroups' sums
  threadgroup float* factors = (threadgroup float*)(numbers + NUMBERS - FACTORS);  // [unit][row][1 / power, sum]

  uint coming[V / 2];                                               // of the next slice of x, two values a word
  uint gains[V / 2];
  float acc[PAIRS][2][2];
  float length = 0.0f;                                              // of row `lane` of x, squared
#pragma unroll
  for (int pair = 0; pair < PAIRS; pair++) {
    for (int h = 0; h < 2; h++) {
      acc[pair][h][0] = 0.0f;
      acc[pair][h][1] = 0.0f;
    }
  }

  // What is needed first is asked for first: x, then scales, then W.
  bring_item<M, K, UNITS, UNIT, ITEMS, NORM>(coming, gains, x, gain, lane, begin);
  using Piece = typename Words<SCALE_PIECE / 2>::type;
  constexpr int EACH = GROUPS / SCALE_PIECE;                        // copies of one row
  for (int i = thread_index_in_threadgroup; i < SCALE_ROWS * EACH; i += SIMDS * 32) {
    uint r = uint(i) / EACH;
    size_t at = size_t(base + (r < uint(TAKEN) ? r : r - TAKEN + O)) * GROUPS + i % EACH * SCALE_PIECE;
    uint to = r * SCALE_PITCH + i % EACH * SCALE_PIECE;
    copy_ahead((threadgroup Piece*)(own_scales + to), (const device Piece*)(scales + at));
    to += SCALE_ROWS * SCALE_PITCH;
    copy_ahead((threadgroup Piece*)(own_scales + to), (const device Piece*)(biases + at));
  }
  copies_end();
#pragma unroll
  for (int d = 0; d < DEPTH; d++) {
    if (d < CHUNKS * PAIRS) {
      uint at = first_unit<UNITS, SLICE, SIMDS>(d / PAIRS, begin);
      copy_pair<TAKEN, GATED, O, WORDS, W, PIECES>(own + d * STAGE, w, d % PAIRS, base, at, lane);
    }
    copies_end();
  }
  float early = 0.0f;                                               // this thread's first residual, long before its use
  if (RESIDUAL && thread_index_in_threadgroup < uint(TAKEN * M)) {
    early = float(residual[size_t(thread_index_in_threadgroup % M) * O + base + thread_index_in_threadgroup / M]);
  }

#pragma unroll 1
  for (int c0 = 0; c0 < CHUNKS; c0 += AT_ONCE) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      int chunk = c0 + i;
      if (AT_ONCE == CHUNKS || chunk < CHUNKS) {
        // x in numbers, by all lanes of the simdgroup: then each takes what it multiplies.
        simdgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
        for (int p = 0; p < PASSES; p++) {
          uint item = lane + 32 * p;
          uint u = item % ITEMS / 4;
          uint m = item / ITEMS;
          uint later[V / 2];
          uint later_gains[V / 2];
          if (p + 1 < PASSES) {
            uint from_unit = uint(chunk) * (SIMDS * SLICE) + begin;
            bring_item<M, K, UNITS, UNIT, ITEMS, NORM>(later, later_gains, x, gain, item + 32u, from_unit);
          }
          float v[V];
          float squared = 0.0f;
#pragma unroll
          for (int e = 0; e < V; e++) {
            v[e] = element<T>(coming, e);
            squared = NORM ? metal::fma(v[e], v[e], squared) : 0.0f;
            v[e] = NORM ? v[e] * element<T>(gains, e) : v[e];
          }
          uint largest = NORM ? largest_bits(v) : largest_bits_of<T>(coming);
          largest = metal::max(largest, simd_shuffle_xor(largest, ushort(1)));
          largest = metal::max(largest, simd_shuffle_xor(largest, ushort(2)));
          // 2^exponent is above all values, and not so close that rounding gets there.
          uint exponent = metal::max((largest + 0x100u) >> 23, 20u);
          float power = as_type<float>((268u - metal::min(exponent, 254u)) << 23);
          float inverse = as_type<float>(exponent > 254u ? 0x7fc00000u : (exponent - 14u) << 23);
          uint n[V];                                                // in its low 16 bits
#pragma unroll
          for (int e = 0; e < V; e++) {
            n[e] = as_type<uint>(metal::fma(v[e], power, 12582912.0f));
          }
          uint4 planes[STEPS];
          int sum = 0;
#pragma unroll
          for (int t = 0; t < STEPS; t++) {
            constexpr int A = BITS == 4 ? 2 : 1;                    // of a word with 4 bits: even values, then odd ones
            constexpr int B = BITS == 4 ? 1 : 4;
            thread uint* s = n + 8 * t;
            planes[t] = planes_of(s[0], s[A], s[2 * A], s[3 * A],  //
                                  s[B], s[B + A], s[B + 2 * A], s[B + 3 * A]);
            sum += sum_bytes<false>(planes[t].x) + sum_bytes<false>(planes[t].y);
            sum += 256 * (sum_bytes<true>(planes[t].z) + sum_bytes<true>(planes[t].w));
          }
          sum = quad_added(sum);
          squared = NORM ? quad_added(squared) : 0.0f;
          if (m < uint(M)) {
#pragma unroll
            for (int t = 0; t < STEPS; t++) {
              numbers[((u * STEPS + t) * M + m) * 4 + part] = planes[t];
            }
            if (part == 0u) {
              factors[2 * (u * M + m)] = inverse;
              factors[2 * (u * M + m) + 1] = inverse * float(sum);
            }
          }
          if (NORM) {                                               // in the order of units, whatever lanes they are of
#pragma unroll
            for (int k = 0; k < SLICE; k++) {
              uint wanted = lane * ITEMS + 4 * k;
              float other = simd_shuffle(squared, ushort(wanted % 32));
              length += wanted / 32 == uint(p) && lane < uint(M) ? other : 0.0f;
            }
          }
          if (p + 1 < PASSES) {
#pragma unroll
            for (int e = 0; e < V / 2; e++) {
              coming[e] = later[e];
              gains[e] = later_gains[e];
            }
          }
        }
        if (NORM && lane < 8u) {
          squares[simd * 8 + lane] = length;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        Unit<STEPS> kept[SLICE];
#pragma unroll
        for (int u = 0; KEPT && u < SLICE; u++) {
          take_unit<M>(kept[u], numbers, factors, u, lane);
        }
        if (chunk == 0) {
          copies_wait<DEPTH>();
          threadgroup_barrier(mem_flags::mem_threadgroup);
          if (STREAMED && NORM && thread_index_in_threadgroup < uint(M)) {
            squares[SIMDS * 8 + lane] = row_factor<SIMDS, K, NORM>(squares, lane, as_type<float>(EPS));
          }
        }
        uint group = first_unit<UNITS, SLICE, SIMDS>(chunk, begin) / PER_GROUP;
#pragma unroll
        for (int pair = 0; pair < PAIRS; pair++) {
          int d = (i * PAIRS + pair) % DEPTH;
          uint words[2][SLICE][W];
          copies_wait<DEPTH - 1>();
          simdgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
          for (int u = 0; u < SLICE; u++) {
            for (int h = 0; h < 2; h++) {
              uint place = stage_place<PIECES, W>(row + 8 * h, u * W + part * W / 4);
              take_words((const threadgroup uint*)(own + d * STAGE + place) + part * W % 4, words[h][u]);
            }
          }
          simdgroup_barrier(mem_flags::mem_threadgroup);
          int later = chunk + (pair + DEPTH) / PAIRS;
          if (later < CHUNKS) {
            uint at = first_unit<UNITS, SLICE, SIMDS>(later, begin);
            copy_pair<TAKEN, GATED, O, WORDS, W, PIECES>(own + d * STAGE, w, (pair + DEPTH) % PAIRS, base, at, lane);
          }
          copies_end();
          if (pair == PAIRS - 1 && chunk + 1 < CHUNKS) {            // past the end x is zero, and W any
            uint from_unit = uint(chunk + 1) * (SIMDS * SLICE) + begin;
            bring_item<M, K, UNITS, UNIT, ITEMS, NORM>(coming, gains, x, gain, lane, from_unit);
          }
          uint scale_words[2][2][(SCALES + 1) / 2];                 // [scales, biases][h]
#pragma unroll
          for (int h = 0; h < 2; h++) {
            uint r = own_row<TAKEN, GATED>(pair, row, h) + (GATED ? h * TAKEN : 0);
            take_pairs<SCALE_STEP, SCALES>(own_scales + r * SCALE_PITCH + group, scale_words[0][h]);
            take_pairs<SCALE_STEP, SCALES>(own_scales + (SCALE_ROWS + r) * SCALE_PITCH + group, scale_words[1][h]);
          }
#pragma unroll
          for (int u = 0; u < SLICE; u++) {
            Unit<STEPS> unit = kept[u];
            if constexpr (!KEPT) {
              simdgroup_barrier(mem_flags::mem_none);               // not to be loaded long before it is used
              take_unit<M>(unit, numbers, factors, u, lane);
            }
            int c[4] = {0, 0, 0, 0};                                // [h][column]
            uint a[STEPS][4];
#pragma unroll
            for (int t = 0; t < STEPS; t++) {
              weights_as_bytes<BITS>(a[t], words[0][u], words[1][u], t);
              multiply_bytes<true>(c, a[t], unit.b[t][2], unit.b[t][3]);
            }
            for (int e = 0; e < 4; e++) {
              c[e] *= 256;
            }
#pragma unroll
            for (int t = 0; t < STEPS; t++) {
              multiply_bytes<false>(c, a[t], unit.b[t][0], unit.b[t][1]);
            }
            for (int h = 0; h < 2; h++) {
              float scale = element<T>(scale_words[0][h], u / PER_GROUP);
              float bias = element<T>(scale_words[1][h], u / PER_GROUP);
              for (int e = 0; e < 2; e++) {
                float sum = metal::fma(bias, unit.sums[e], acc[pair][h][e]);
                acc[pair][h][e] = metal::fma(scale * unit.inverses[e], float(c[2 * h + e]), sum);
              }
            }
          }
          if (STREAMED && (pair % TURN == TURN - 1 || pair == PAIRS - 1)) {
            constexpr int NEEDED = (TURN * TILE_OUTS * M + 31) / 32;  // simdgroups, each time others
            constexpr int LAST = PAIRS % TURN == 0 ? TURN : PAIRS % TURN;
            int turn = pair / TURN;
            int pairs = pair == PAIRS - 1 ? LAST : TURN;
            threadgroup_barrier(mem_flags::mem_threadgroup);        // the turn before is finished
#pragma unroll
            for (int k = 0; k < pairs; k++) {
              store_sums<M>(shared + (simd * TURN + k) * 16 * M, acc[turn * TURN + k], row, part);
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            uint first = (simd + SIMDS - turn * NEEDED % SIMDS) % SIMDS * 32 + lane;
            for (uint i = first; i < uint(pairs * TILE_OUTS * M); i += SIMDS * 32) {
              uint m = i % M;
              uint out = i / M;
              uint o = base + turn * TURN * TILE_OUTS + out;
              uint at = (GATED ? out / 8 * 16 + out % 8 : out) * M + m;
              if (o >= from && o < base + TAKEN) {
                float addend = RESIDUAL ? float(residual[size_t(m) * O + o]) : 0.0f;
                y[size_t(m) * O + o] = finished_sum<SIMDS, TURN * 16 * M, M, O, ACT, BIAS>(
                    shared, at, NORM ? squares[SIMDS * 8 + m] : 1.0f, o, bias, addend);
              }
            }
          }
        }
      }
    }
  }
  if constexpr (!STREAMED) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++) {
      store_sums<M>(shared + (simd * PAIRS + pair) * 16 * M, acc[pair], row, part);
    }
    if (NORM && thread_index_in_threadgroup < uint(M)) {
      squares[SIMDS * 8 + lane] = row_factor<SIMDS, K, NORM>(squares, lane, as_type<float>(EPS));
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = thread_index_in_threadgroup; i < uint(TAKEN * M); i += SIMDS * 32) {
      uint m = i % M;
      uint out = i / M;
      uint o = base + out;
      uint at = (GATED ? out / 8 * 16 + out % 8 : out) * M + m;
      float addend = early;
      if (RESIDUAL && i >= uint(SIMDS * 32)) {
        addend = float(residual[size_t(m) * O + o]);
      }
      if (o >= from) {
        y[size_t(m) * O + o] = finished_sum<SIMDS, PAIRS * 16 * M, M, O, ACT, BIAS>(
            shared, at, NORM ? squares[SIMDS * 8 + m] : 1.0f, o, bias, addend);
      }
    }
  }
