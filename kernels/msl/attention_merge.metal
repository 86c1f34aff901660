// attention_merge.metal: the parts of attention.metal joined, in the order of positions. A thread an element of a head.
//
// partial [B, KV, P, R, D], stats [B, KV, P, R, 2], bounds [B, 2] as there -> o [B, NEW, KV * GROUP, D].

// ---- body
  constexpr int R = GROUP * NEW;
  constexpr int AHEAD = 8;                              // parts loaded at once

  uint d = thread_index_in_threadgroup;
  uint lane = thread_index_in_simdgroup;
  uint r = threadgroup_position_in_grid.x;
  uint head = threadgroup_position_in_grid.y;
  uint row = threadgroup_position_in_grid.z;
  uint token = r % NEW;
  int own = bounds[2 * row + 1] + int(token);
  int begin = bounds[2 * row];
  int oldest = WINDOW == 0 ? 0 : metal::max(0, own - WINDOW + 1);
  int from = metal::max(0, oldest - begin) / (SPAN * PAGE);
  int upto = (own - begin) / (SPAN * PAGE);             // the part of the token itself
  size_t base = (size_t(row) * KV + head) * PARTS;

  // The first parts are loaded before it is known what they weigh: a chain of loads takes longer than the loads.
  float ahead[AHEAD];
#pragma unroll
  for (int k = 0; k < AHEAD; k++) {
    int q = metal::min((WINDOW == 0 ? 0 : from) + k, PARTS - 1);
    ahead[k] = d < uint(D) ? partial[((base + q) * R + r) * D + d] : 0.0f;
  }
  float top = -1e30f;
  for (int p = from + int(lane); p <= upto; p += 32) {
    top = metal::max(top, stats[2 * ((base + p) * R + r)]);
  }
  top = simd_max(top);
  float sum = 0.0f;
  float value = 0.0f;
  for (int p0 = from; p0 <= upto; p0 += 32) {
    int p = p0 + int(lane);
    bool inside = p <= upto;
    size_t at = 2 * ((base + (inside ? p : upto)) * R + r);
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
        ahead[k] = d < uint(D) && p0 + j + AHEAD <= upto ? partial[((base + q) * R + r) * D + d] : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < AHEAD; k++) {
        value = metal::fma(simd_broadcast(weight, ushort(j + k)), j + k < count ? now[k] : 0.0f, value);
      }
    }
  }
  if (d < uint(D)) {
    o[((size_t(row) * NEW + token) * (KV * GROUP) + head * GROUP + r / NEW) * D + d] = T(value / sum);
  }
