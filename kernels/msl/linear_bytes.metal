// linear_bytes.metal: y = act(norm(x) W^T + bias) + residual for 1..8 rows and packed W, by products of bytes.
//
// x becomes whole numbers of 16 bits: a unit of 64 values (32 where groups are not longer) times a power of two. That
// changes no bfloat16 above 1/128 of the unit's largest, and nothing by more than 1/32768 of it. The numbers stand in two
// planes of bytes, W's values are bytes, and a unit's products are summed without rounding: sum of q (256 high + low).
// A weight is read once. Neither the way of the sums nor a row's bits depend on the number of rows.
//
// The simdgroups of TOGETHER neighbouring threadgroups share k. Each keeps its slice of x in registers and goes through
// pairs of 8-row tiles of W, of which DEPTH are on their way to threadgroup memory. TURN pairs are a turn: at its end the
// simdgroups' sums are added, while the next turn goes on. The last of the threadgroups gets the others' sums by mail.
//
// x [M, K]; w [R, K] packed; scales and biases [2, R, K / GROUP]; bias [R]; gain [K], see gain_of; residual [M, O];
// y [M, O]. R = 2 O where gated (rows of W: gates, then ups), else O. T: float16 or bfloat16. mail: EMPTY, before and after, where
// threadgroups share k; after: waited for, not read.
// The norm's gain is applied to x, its 1 / rms to the sums, when all of x has been seen.
#include "activation.metal"
#include "linear_numbers.metal"
#include "linear_stages.metal"
#include "mail.metal"

// The simdgroups' sums [SIMDS][PITCH] at one place, added in their order.
template <int SIMDS, int PITCH>
METAL_FUNC float added(const threadgroup float* sums, uint at) {
  float total = 0.0f;
#pragma unroll
  for (int s = 0; s < SIMDS; s++) {
    total += sums[s * PITCH + at];
  }
  return total;
}

// 1 / rms of a row of K values whose squares have this sum.
template <int K>
METAL_FUNC float inverse_rms(float squares, float eps) {
  return metal::precise::rsqrt(squares / float(K) + eps);
}

// ---- body
  constexpr int UNIT = GROUP < 64 ? 32 : 64;                        // 4 lanes of V values
  constexpr int V = UNIT / 4;
  constexpr int W = V * BITS / 32;
  constexpr int STEPS = UNIT / 32;                                  // products of a unit, of 32 k each
  constexpr int UNITS = K / UNIT;
  constexpr int PER_GROUP = GROUP / UNIT;                           // units of one scale
  constexpr int GROUPS = UNITS / PER_GROUP;
  constexpr int SCALES = SLICE / PER_GROUP;                         // of one slice
  constexpr bool GATED = ACT == 1 || ACT == 2;
  constexpr int SIDES = GATED ? 2 : 1;
  constexpr int TAKEN = OUTS < O ? OUTS : O;                        // outputs of this threadgroup
  constexpr int TILE_OUTS = GATED ? 8 : 16;                         // of a pair
  constexpr int PAIRS = (TAKEN + TILE_OUTS - 1) / TILE_OUTS;
  constexpr int TURNS = (PAIRS + TURN - 1) / TURN;                  // TURN pairs are finished together
  constexpr int WORDS = K * BITS / 32;                              // of one row
  constexpr int ITEMS = 4 * SLICE;                                  // of a row of x: a lane's work in bringing it
  constexpr int PASSES = (M * ITEMS + 31) / 32;
  constexpr int AHEAD = PASSES < 4 ? PASSES : 4;                    // passes whose x is on its way
  constexpr bool SAME_GAINS = 32 % ITEMS == 0;

  constexpr int PIECES = SLICE * W;                                 // of 16 bytes: a row's slice
  constexpr int STAGE = 16 * stage_pitch<PIECES, W>();              // a pair of tiles
  constexpr int SHARE = SIMDS * SCALES < GROUPS ? SIMDS * SCALES : GROUPS;  // scales of a row that this threadgroup takes
  constexpr int SCALE_PIECE = SHARE % 8 == 0 && GROUPS % 8 == 0 ? 8 : (SHARE % 4 == 0 && GROUPS % 4 == 0 ? 4 : 2);
  constexpr int SCALE_PITCH = SHARE + (SHARE % 16 == 0 ? 8 : 0);    // rows in different banks
  constexpr int SCALE_STEP = SCALE_PITCH % 4 == 0 && SCALES % 4 == 0 ? 4 : (SCALES % 2 == 0 ? 2 : 1);
  constexpr int SCALE_ROOM = (2 * 2 * 16 * TURN * SCALE_PITCH + 15) / 16;  // of one turn
  constexpr int FACTORS = (2 * SLICE * M + 3) / 4;
  constexpr int NUMBERS = STEPS * SLICE * M * 4 + FACTORS;          // of a simdgroup: its slice of x, and its factors
  constexpr int SUMS = TURN * 4 * M;                                // of a simdgroup: its sums of a turn
  constexpr int BUFFERS = TURNS > 1 ? 2 : 1;                        // a turn is finished while the next one goes on
  constexpr int TAKEN_OVER = NUMBERS > BUFFERS * SUMS ? NUMBERS : BUFFERS * SUMS;  // sums stand where numbers stood
  constexpr int NEEDS = BUFFERS * SCALE_ROOM + SIMDS * (TAKEN_OVER + DEPTH * STAGE);
  static_assert(NEEDS <= STAGED, "more threadgroup memory than was asked for");
  static_assert(SHARE % 2 == 0 && GROUPS % 2 == 0, "scales are copied in words");
  static_assert(PIECES % 2 == 0, "a stage is copied by all lanes");
  constexpr size_t TABLE = size_t(SIDES) * O * GROUPS;
  auto biases = scales + TABLE;                                     // as well aligned: a row of scales is whole pieces
  auto norm_gain = gain_of<BEHIND>(scales, 2 * TABLE, gain);
  constexpr int LETTERS = SIDES * TAKEN * M + (NORM ? M : 0);       // a threadgroup's sums, and squares of x
  static_assert(TOGETHER * SIMDS * SLICE >= UNITS, "every simdgroup takes one slice");
  static_assert(TOGETHER == 1 || TURNS == 1, "sums are sent once");
  static_assert(TURNS == 1 || DEPTH < TURN, "scales of the next turn come with the stages of this one");

  threadgroup uint4 staged[STAGED];
  threadgroup float squares[SIMDS * 8 + 8];                         // [simdgroup][row], then each row's 1 / rms

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint row = lane / 4;
  uint part = lane % 4;                                             // which quarter of a unit
  uint rank = threadgroup_position_in_grid.x % TOGETHER;            // which part of k
  uint first = (rank * SIMDS + simd) * SLICE;                       // the simdgroup's first unit
  uint from = threadgroup_position_in_grid.x / TOGETHER * TAKEN;    // the first output
  uint base = metal::min(from, uint(O - TAKEN));                    // the last threadgroup repeats some of the one before
  threadgroup uint4* sums_at = staged + BUFFERS * SCALE_ROOM;       // [buffer][simdgroup][SUMS], after
  threadgroup uint4* numbers = sums_at + simd * NUMBERS;            // [unit][step][row][part]
  threadgroup float* factors = (threadgroup float*)(numbers + STEPS * SLICE * M * 4);  // [unit][row][1 / power, sum]
  threadgroup uint4* own = sums_at + SIMDS * TAKEN_OVER + simd * DEPTH * STAGE;

  // What is needed first is asked for first: x, then scales, then one stage of W. More of W at once, and x comes later.
  uint coming[AHEAD][V / 2];                                        // of x, two values a word
  uint gains[SAME_GAINS ? 1 : AHEAD][V / 2];
  bring_passes<M, K, UNITS, UNIT, ITEMS, NORM>(coming, gains, x, norm_gain, lane, first);
  uint mine = first < uint(UNITS) ? first : rank * (SIMDS * SLICE);  // past the end: another's, whose products are with zeros
  copy_scales<TAKEN, GATED, O, TURN, GROUPS, SHARE, SCALE_PIECE, SCALE_PITCH>(
      (threadgroup T*)staged, scales, biases, base, rank * SHARE, 0, thread_index_in_threadgroup, SIMDS * 32);
  copies_end();
  copy_pair<TAKEN, GATED, O, WORDS, W, PIECES>(own, w, 0, base, mine, lane);
  copies_end();
  float early = 0.0f;                                               // this thread's first residual, long before its use
  if (RESIDUAL && TURNS == 1 && rank == uint(TOGETHER - 1) && thread_index_in_threadgroup < uint(TAKEN * M)) {
    early = float(residual[size_t(thread_index_in_threadgroup % M) * O + base + thread_index_in_threadgroup / M]);
  }

  // x in numbers, by all lanes of the simdgroup: then each takes what it multiplies.
  float length = 0.0f;                                              // of row `lane` of x, squared
#pragma unroll
  for (int p = 0; p < PASSES; p++) {
    uint item = lane + 32 * p;
    uint u = item % ITEMS / 4;
    uint m = item / ITEMS;
    uint4 planes[STEPS];
    float inverse;
    int sum;
    float squared;
    as_numbers<BITS, NORM, T>(planes, inverse, sum, squared, coming[p % AHEAD], gains[SAME_GAINS ? 0 : p % AHEAD]);
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
    if (NORM) {                                                     // in the order of units, whatever lanes they are of
#pragma unroll
      for (int k = 0; k < SLICE; k++) {
        uint wanted = lane * ITEMS + 4 * k;
        float other = simd_shuffle(squared, ushort(wanted % 32));
        length += wanted / 32 == uint(p) && lane < uint(M) ? other : 0.0f;
      }
    }
    if (p + AHEAD < PASSES) {
      bring_item<M, K, UNITS, UNIT, ITEMS>(coming[p % AHEAD], x, item + 32u * AHEAD, first);
      if (!SAME_GAINS) {
        bring_gain<UNITS, UNIT, ITEMS, NORM>(gains[p % AHEAD], norm_gain, item + 32u * AHEAD, first);
      }
    }
  }
#pragma unroll
  for (int d = 1; d < DEPTH; d++) {
    if (d < PAIRS) {
      copy_pair<TAKEN, GATED, O, WORDS, W, PIECES>(own + d * STAGE, w, d, base, mine, lane);
    }
    copies_end();
  }
  if (NORM && lane < 8u) {
    squares[simd * 8 + lane] = length;
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  Unit<STEPS> kept[SLICE];
#pragma unroll
  for (int u = 0; u < SLICE; u++) {
    take_unit<M>(kept[u], numbers, factors, u, lane);
  }
  copies_wait<DEPTH>();
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (NORM && TOGETHER == 1 && thread_index_in_threadgroup < uint(M)) {
    squares[SIMDS * 8 + lane] = inverse_rms<K>(added<SIMDS, 8>(squares, lane), as_type<float>(EPS));
  }

  uint group = mine / PER_GROUP - rank * SHARE;                     // of the slice's first scale
  int slot = 0;
#pragma unroll 1
  for (int turn = 0; turn < TURNS; turn++) {
    int buffer = turn % BUFFERS;
    threadgroup float* sums = (threadgroup float*)(sums_at + (buffer * SIMDS + simd) * SUMS);
    threadgroup T* own_scales = (threadgroup T*)(staged + buffer * SCALE_ROOM);
#pragma unroll
    for (int k = 0; k < TURN; k++) {
      int pair = turn * TURN + k;
      if (PAIRS % TURN == 0 || pair < PAIRS) {
        uint words[2][SLICE][W];
        threadgroup uint4* stage = own + slot * STAGE;
        copies_wait<DEPTH - 1>();
        simdgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
        for (int u = 0; u < SLICE; u++) {
          for (int h = 0; h < 2; h++) {
            uint place = stage_place<PIECES, W>(row + 8 * h, u * W + part * W / 4);
            take_words((const threadgroup uint*)(stage + place) + part * W % 4, words[h][u]);
          }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        if (pair + DEPTH < PAIRS) {
          copy_pair<TAKEN, GATED, O, WORDS, W, PIECES>(stage, w, pair + DEPTH, base, mine, lane);
        }
        if (k == 0 && turn + 1 < TURNS) {
          copy_scales<TAKEN, GATED, O, TURN, GROUPS, SHARE, SCALE_PIECE, SCALE_PITCH>(
              (threadgroup T*)(staged + (1 - buffer) * SCALE_ROOM), scales, biases, base, rank * SHARE, turn + 1,
              thread_index_in_threadgroup, SIMDS * 32);
        }
        copies_end();
        slot = slot + 1 == DEPTH ? 0 : slot + 1;
        uint scale_words[2][2][(SCALES + 1) / 2];                   // [scales, biases][h]
#pragma unroll
        for (int h = 0; h < 2; h++) {
          uint r = k * 16 + h * 8 + row;
          take_pairs<SCALE_STEP, SCALES>(own_scales + r * SCALE_PITCH + group, scale_words[0][h]);
          take_pairs<SCALE_STEP, SCALES>(own_scales + (16 * TURN + r) * SCALE_PITCH + group, scale_words[1][h]);
        }
        float acc[2][2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};             // [row of W][row of x]
#pragma unroll
        for (int u = 0; u < SLICE; u++) {
          int c[4] = {0, 0, 0, 0};                                  // [h][column]
          uint a[STEPS][4];
#pragma unroll
          for (int t = 0; t < STEPS; t++) {
            weights_as_bytes<BITS>(a[t], words[0][u], words[1][u], t);
            multiply_bytes<true>(c, a[t], kept[u].b[t][2], kept[u].b[t][3]);
          }
          for (int e = 0; e < 4; e++) {
            c[e] *= 256;
          }
#pragma unroll
          for (int t = 0; t < STEPS; t++) {
            multiply_bytes<false>(c, a[t], kept[u].b[t][0], kept[u].b[t][1]);
          }
          for (int h = 0; h < 2; h++) {
            float scale = element<T>(scale_words[0][h], u / PER_GROUP);
            float bias = element<T>(scale_words[1][h], u / PER_GROUP);
            for (int e = 0; e < 2; e++) {
              float sum = metal::fma(bias, kept[u].sums[e], acc[h][e]);
              acc[h][e] = metal::fma(scale * kept[u].inverses[e], float(c[2 * h + e]), sum);
            }
          }
        }
        for (int h = 0; h < 2; h++) {
          for (int e = 0; e < 2; e++) {
            if (2 * part + e < uint(M)) {
              sums[((k * 2 + h) * 8 + row) * M + 2 * part + e] = acc[h][e];
            }
          }
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const threadgroup float* all = (const threadgroup float*)(sums_at + buffer * SIMDS * SUMS);
    int outs = TURNS == 1 ? TAKEN : metal::min(TURN * TILE_OUTS, TAKEN - turn * TURN * TILE_OUTS);
    device float* letters = (device float*)mail + size_t(threadgroup_position_in_grid.x / TOGETHER) * (TOGETHER - 1) * LETTERS;
    if (rank + 1 < uint(TOGETHER)) {
      letters += rank * LETTERS;
#pragma unroll 1
      for (uint i = thread_index_in_threadgroup; i < uint(TAKEN * M); i += SIMDS * 32) {
        uint out = i / M;
        uint at = (GATED ? out / 8 * 16 + out % 8 : out) * M + i % M;
        for (int h = 0; h < SIDES; h++) {
          send(letters + h * TAKEN * M + i, added<SIMDS, 4 * SUMS>(all, at + h * 8 * M));
        }
      }
      if (NORM && thread_index_in_threadgroup < uint(M)) {
        send(letters + SIDES * TAKEN * M + lane, added<SIMDS, 8>(squares, lane));
      }
      return;
    }
    if (NORM && TOGETHER > 1) {
      if (thread_index_in_threadgroup < uint(M)) {
        float total = 0.0f;
        for (int r = 0; r + 1 < TOGETHER; r++) {
          total += take(letters + r * LETTERS + SIDES * TAKEN * M + lane);
        }
        squares[SIMDS * 8 + lane] = inverse_rms<K>(total + added<SIMDS, 8>(squares, lane), as_type<float>(EPS));
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    constexpr int NEEDED = (TURN * TILE_OUTS * M + 31) / 32;        // simdgroups, each time others
    uint own_index = TURNS == 1 ? thread_index_in_threadgroup : (simd + SIMDS - turn * NEEDED % SIMDS) % SIMDS * 32 + lane;
#pragma unroll 1
    for (uint i = own_index; i < uint(outs * M); i += SIMDS * 32) {
      uint m = i % M;
      uint out = i / M;
      uint o = base + turn * TURN * TILE_OUTS + out;
      uint at = (GATED ? out / 8 * 16 + out % 8 : out) * M + m;
      float addend = early;
      if (RESIDUAL && (TURNS > 1 || i >= uint(SIMDS * 32))) {
        addend = float(residual[size_t(m) * O + o]);
      }
      float v = 0.0f;
      float up = 0.0f;
      for (int r = 0; r + 1 < TOGETHER; r++) {
        v += take(letters + r * LETTERS + i);
        up += GATED ? take(letters + r * LETTERS + TAKEN * M + i) : 0.0f;
      }
      v += added<SIMDS, 4 * SUMS>(all, at);
      up += GATED ? added<SIMDS, 4 * SUMS>(all, at + 8 * M) : 0.0f;
      float factor = NORM ? squares[SIMDS * 8 + m] : 1.0f;
      if (o >= from) {
        v = metal::fma(v, factor, BIAS ? float(bias[o]) : 0.0f);
        up = metal::fma(up, factor, BIAS && GATED ? float(bias[o + O]) : 0.0f);
        y[size_t(m) * O + o] = T(finished<ACT>(v, up, addend));
      }
    }
  }
