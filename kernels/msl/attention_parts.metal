// attention_parts.metal: the parts of attention.metal joined, in the order of positions: which of them a token sees, and
// its sums over them.

template <int SIZE, int WINDOW>
METAL_FUNC int first_part(int begin, int own) {
  return WINDOW == 0 ? 0 : metal::max(0, own - WINDOW + 1 - begin) / SIZE;
}

template <int SIZE>
METAL_FUNC int last_part(int begin, int own) { return (own - begin) / SIZE; }

// Element d of the result for a row of q that sees the parts from .. upto: `sums` and `stats` are of its row of the first
// part, and STRIDE rows further that of the next. A simdgroup has one row. The first loads are of parts early .. late,
// before it is known what they weigh: a chain of loads takes longer than the loads.
template <int D, int STRIDE>
METAL_FUNC float joined_parts(const device float* sums, const device float* stats, int from, int upto, int early, int late,
                              uint d, uint lane) {
  constexpr int AHEAD = 8;                              // parts loaded at once
  float ahead[AHEAD];
#pragma unroll
  for (int k = 0; k < AHEAD; k++) {
    int q = metal::min(early + k, late);
    ahead[k] = sums[size_t(q) * (STRIDE * D) + d];
  }
  float top = -1e30f;
  for (int p = from + int(lane); p <= upto; p += 32) {
    top = metal::max(top, stats[2 * size_t(p) * STRIDE]);
  }
  top = simd_max(top);
  float sum = 0.0f;
  float value = 0.0f;
  for (int p0 = from; p0 <= upto; p0 += 32) {
    int p = p0 + int(lane);
    bool inside = p <= upto;
    size_t at = 2 * size_t(inside ? p : upto) * STRIDE;
    float weight = inside ? metal::precise::exp(stats[at] - top) : 0.0f;
    sum += simd_sum(weight * stats[at + 1]);
    int count = metal::min(32, upto - p0 + 1);
#pragma unroll 1
    for (int j = 0; j < count; j += AHEAD) {
      float now[AHEAD];
#pragma unroll
      for (int k = 0; k < AHEAD; k++) {
        now[k] = ahead[k];
        int q = metal::min(p0 + j + AHEAD + k, upto);   // past the end: not used
        ahead[k] = p0 + j + AHEAD <= upto ? sums[size_t(q) * (STRIDE * D) + d] : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < AHEAD; k++) {
        value = metal::fma(simd_broadcast(weight, ushort(j + k)), j + k < count ? now[k] : 0.0f, value);
      }
    }
  }
  return value / sum;
}
