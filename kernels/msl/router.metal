// router.metal: the TOP best of E experts for a row, and their weights. One simdgroup a row.
//
// logits: E columns from FIRST of [N, WIDTH]; bias [E] where BIASED; scale [E] where SCALED -> routed [2, N, TOP]: indices,
// the best first, of equals the lower; then the bits of their weights, float32. Worths are compared as integers: there are
// TOP different experts whatever the logits are.

// Integers in the order of floats, none of them 0.
METAL_FUNC uint ordered(float x) {
  uint bits = as_type<uint>(x);
  return metal::max(bits & 0x80000000u ? ~bits : bits | 0x80000000u, 1u);
}

// The lowest number among the lanes with the largest key.
METAL_FUNC uint best_of_lanes(uint key, uint number) {
  uint top = simd_max(key);
  return simd_min(key == top ? number : 0xffffffffu);
}

// ---- body
  constexpr int EACH = (E + 31) / 32;                   // experts of a lane: lane, lane + 32, ...
  constexpr int SIZE = E / GROUPS;

  threadgroup float worths[GROUPS > 1 ? E : 1];

  uint lane = thread_index_in_simdgroup;
  size_t row = threadgroup_position_in_grid.x;
  float score[EACH];
  uint key[EACH];
  float high = -INFINITY;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    uint e = lane + 32 * i;
    score[i] = e < uint(E) ? float(logits[row * WIDTH + FIRST + e]) : -INFINITY;
    high = metal::max(high, score[i]);
  }
  if (SOFTMAX) {
    high = simd_max(high);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      score[i] = metal::precise::exp(score[i] - high);
      sum += score[i];
    }
    sum = simd_sum(sum);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      score[i] = score[i] / sum;
    }
  } else {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      score[i] = 1.0f / (1.0f + metal::precise::exp(-score[i]));
    }
  }

  uint allowed = 0xffffffffu;                           // groups, as bits
  if (GROUPS > 1) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      uint e = lane + 32 * i;
      if (e < uint(E)) {
        worths[e] = score[i] + (BIASED ? float(bias[e]) : 0.0f);
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    float first = -INFINITY;
    float second = SIZE > 1 ? -INFINITY : 0.0f;
    if (lane < uint(GROUPS)) {
      for (int j = 0; j < SIZE; j++) {
        float worth = worths[lane * SIZE + j];
        second = SIZE > 1 ? metal::max(second, metal::min(first, worth)) : second;
        first = metal::max(first, worth);
      }
    }
    uint group = lane < uint(GROUPS) ? ordered(first + second) : 0u;
    allowed = 0u;
    for (int g = 0; g < ALLOWED; g++) {
      uint best = best_of_lanes(group, lane);
      allowed |= 1u << best;
      group = lane == best ? 0u : group;
    }
  }
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    uint e = lane + 32 * i;
    key[i] = 0u;
    if (e < uint(E)) {
      float worth = score[i] + (BIASED ? float(bias[e]) : 0.0f);
      bool open = GROUPS == 1 || (allowed >> (e / SIZE) & 1u) != 0u;
      key[i] = ordered(open ? worth : -INFINITY);
    }
  }

  uint chosen = 0;                                      // lane k has the k-th
  float weight = 0.0f;
  for (int k = 0; k < TOP; k++) {
    uint best = 0u;
    uint own = 0u;
    float value = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      bool better = key[i] > best;
      best = better ? key[i] : best;
      own = better ? lane + 32 * i : own;
      value = better ? score[i] : value;
    }
    uint winner = best_of_lanes(best, own);
    value = simd_shuffle(value, ushort(winner % 32));
    if (lane == uint(k)) {
      chosen = winner;
      weight = value;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      key[i] = winner == lane + 32 * i ? 0u : key[i];
    }
  }

  float total = simd_sum(weight);
  if (lane < uint(TOP)) {
    if (NORMALISE) {
      weight = weight / (total + as_type<float>(EPS));
    }
    if (SCALED) {
      weight = weight * float(scale[chosen]);
    }
    routed[row * TOP + lane] = chosen;
    routed[(threadgroups_per_grid.x + row) * TOP + lane] = as_type<uint>(weight * as_type<float>(SCALE));
  }
