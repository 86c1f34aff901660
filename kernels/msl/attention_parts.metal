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

// values += weight * floats, which are given as words.
template <int N>
METAL_FUNC void add_weighted(thread float (&values)[N], thread uint (&words)[N], float weight) {
#pragma unroll
  for (int e = 0; e < N; e++) {
    values[e] = metal::fma(weight, as_type<float>(words[e]), values[e]);
  }
}

// Elements d .. d + N - 1 of the result for a row of q that sees the parts from .. upto: `sums` and `stats` are of its row
// of the first part, and STRIDE rows further that of the next. A simdgroup has one row. The first loads are of parts early ..
// late, before it is known what they weigh: a chain of loads takes longer than the loads.
template <int D, int STRIDE, int N>
METAL_FUNC void joined_parts(thread float (&value)[N], const device float* sums, const device float* stats, int from,
                             int upto, int early, int late, uint d, uint lane) {
  constexpr int AHEAD = 8;                              // parts loaded at once
  uint ahead[AHEAD][N];
#pragma unroll
  for (int k = 0; k < AHEAD; k++) {
#pragma unroll
    for (int e = 0; e < N; e++) {
      ahead[k][e] = 0u;
    }
    if (early + k <= late) {
      load_words((const device uint*)(sums + size_t(early + k) * (STRIDE * D) + d), ahead[k]);
    }
  }
  int first = metal::min(from + int(lane), upto);       // the lane's part of the first 32
  float own_top = stats[2 * size_t(first) * STRIDE];
  float own_sum = stats[2 * size_t(first) * STRIDE + 1];
  float top = own_top;
  for (int p = from + 32 + int(lane); p <= upto; p += 32) {
    top = metal::max(top, stats[2 * size_t(p) * STRIDE]);
  }
  top = simd_max(top);
  float sum = 0.0f;
#pragma unroll
  for (int e = 0; e < N; e++) {
    value[e] = 0.0f;
  }
  for (int p0 = from; p0 <= upto; p0 += 32) {
    int p = p0 + int(lane);
    if (p0 > from) {
      size_t at = 2 * size_t(metal::min(p, upto)) * STRIDE;
      own_top = stats[at];
      own_sum = stats[at + 1];
    }
    float weight = p <= upto ? metal::precise::exp(own_top - top) : 0.0f;
    sum += simd_sum(weight * own_sum);
    int count = metal::min(32, upto - p0 + 1);
#pragma unroll 1
    for (int j = 0; j < count; j += AHEAD) {
      uint now[AHEAD][N];
#pragma unroll
      for (int k = 0; k < AHEAD; k++) {
        int q = metal::min(p0 + j + AHEAD + k, upto);   // past the end: not used
#pragma unroll
        for (int e = 0; e < N; e++) {
          now[k][e] = j + k < count ? ahead[k][e] : 0u;
        }
        if (p0 + j + AHEAD <= upto) {
          load_words((const device uint*)(sums + size_t(q) * (STRIDE * D) + d), ahead[k]);
        }
      }
#pragma unroll
      for (int k = 0; k < AHEAD; k++) {
        add_weighted(value, now[k], simd_broadcast(weight, ushort(j + k)));
      }
    }
  }
#pragma unroll
  for (int e = 0; e < N; e++) {
    value[e] /= sum;
  }
}
