// attention_parts.metal: the parts of attention.metal joined, in the order of positions: which of them a token sees, and
// its sums over them.
#include "packed.metal"

template <int SIZE, int WINDOW>
METAL_FUNC int first_part(int begin, int own) {
  return WINDOW == 0 ? 0 : metal::max(0, own - WINDOW + 1 - begin) / SIZE;
}

template <int SIZE>
METAL_FUNC int last_part(int begin, int own) { return (own - begin) / SIZE; }

// How many neighbours of a head a lane takes, that SIMDS simdgroups have COUNT elements of heads of D in few turns.
template <int COUNT, int D, int SIMDS>
METAL_FUNC constexpr int elements_of_lane() {
  int each = 1;
  while (each < 4 && D % (64 * each) == 0 && COUNT > 32 * each * SIMDS) {
    each *= 2;
  }
  return each;
}

// The least power of 2 that is not below COUNT.
template <int COUNT>
METAL_FUNC constexpr int power_of_2() {
  int power = 1;
  while (power < COUNT) {
    power *= 2;
  }
  return power;
}

// values += weight * floats, which are given as words.
template <int N>
METAL_FUNC void add_weighted(thread float (&values)[N], thread uint (&words)[N], float weight) {
#pragma unroll
  for (int e = 0; e < N; e++) {
    values[e] = metal::fma(weight, as_type<float>(words[e]), values[e]);
  }
}

// 1 / x for an x that is neither very small nor very large. CUDA has its own: its compiler's takes a subroutine for all others.
#ifndef MSL_CUDA
METAL_FUNC float inverse_of(float x) { return 1.0f / x; }
#endif

// values / sum, as exact as results of type T can show.
template <typename T, int N>
METAL_FUNC void divide(thread float (&values)[N], float sum) {
  float inverse = sizeof(T) == 4 ? 1.0f : inverse_of(sum);
#pragma unroll
  for (int e = 0; e < N; e++) {
    values[e] = sizeof(T) == 4 ? values[e] / sum : values[e] * inverse;
  }
}

// Elements d .. d + N - 1 of the result, of type T in the end, for a row of q that sees the parts from .. upto: `sums` and
// `stats` are of its row of the first part, and STRIDE rows further that of the next. A simdgroup has one row. The first loads
// go as far as `late`, before it is known which parts are seen: a chain of loads takes longer than the loads.
template <int D, int STRIDE, typename T, int N>
METAL_FUNC void joined_parts(thread float (&value)[N], const device float* sums, const device float* stats, int from,
                             int upto, int late, uint d, uint lane) {
  constexpr int AHEAD = 8;                              // parts loaded at once
  constexpr int APART = STRIDE * D;
  uint ahead[AHEAD][N];
  const device float* coming = sums + size_t(from) * APART + d;
#pragma unroll
  for (int k = 0; k < AHEAD; k++) {
#pragma unroll
    for (int e = 0; e < N; e++) {
      ahead[k][e] = 0u;
    }
    if (from + k <= late) {
      load_words((const device uint*)(coming + k * APART), ahead[k]);
    }
  }
  uint own[2];                                          // of the lane's part of 32: its largest score, its sum of weights
  load_words((const device uint*)(stats + 2 * size_t(metal::min(from + int(lane), upto)) * STRIDE), own);
  if (late > upto) {                                    // nobody has written these
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
#pragma unroll
      for (int e = 0; e < N; e++) {
        ahead[k][e] = from + k <= upto ? ahead[k][e] : 0u;
      }
    }
  }
  float top = -1e30f;
  float sum = 0.0f;
#pragma unroll
  for (int e = 0; e < N; e++) {
    value[e] = 0.0f;
  }
#pragma unroll 1
  for (int p0 = from; p0 <= upto; p0 += 32) {
    int p = p0 + int(lane);
    float higher = metal::max(top, simd_max(as_type<float>(own[0])));
    float shrink = metal::precise::exp(top - higher);
    float weight = p <= upto ? metal::precise::exp(as_type<float>(own[0]) - higher) : 0.0f;
    sum = metal::fma(sum, shrink, simd_sum(weight * as_type<float>(own[1])));
    top = higher;
#pragma unroll
    for (int e = 0; e < N; e++) {
      value[e] *= shrink;
    }
    if (p0 + 32 <= upto) {
      load_words((const device uint*)(stats + 2 * size_t(metal::min(p + 32, upto)) * STRIDE), own);
    }
    int count = metal::min(32, upto - p0 + 1);
#pragma unroll 1
    for (int j = 0; j < count; j += AHEAD) {
      coming += AHEAD * APART;
#pragma unroll
      for (int k = 0; k < AHEAD; k++) {                 // past the end: with no weight
        add_weighted(value, ahead[k], simd_broadcast(weight, ushort(j + k)));
        if (p0 + j + AHEAD + k <= upto) {
          load_words((const device uint*)(coming + k * APART), ahead[k]);
        }
      }
    }
  }
  divide<T>(value, sum);
}
