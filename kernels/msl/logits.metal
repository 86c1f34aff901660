// logits.metal: a row's logits as they are drawn from, and reductions over a threadgroup. For sample.metal and
// sample_merge.metal, which read the same numbers and so must compute them by the same text.
#include "packed.metal"

constexpr constant uint NO_TOKEN = 0xffffffffu;

// What every logit of a row goes through.
struct Shaping {
  float repetition;
  float presence;
  float frequency;
  float temperature;
};

// The row's logits and what is known of its tokens; each pointer is at token 0 of the row.
template <typename L, typename C, typename B, typename M>
struct Tokens {
  L logits;
  C counts;  // in the completion, then as many numbers on in the window
  B bias;
  M mask;
};

// N consecutive logits from `first` on, -inf past the end.
template <int V, int N, typename L>
METAL_FUNC void load_logits(L logits, uint first, thread float (&to)[N]) {
  constexpr int STEP = V % 4 == 0 ? 4 : (V % 2 == 0 ? 2 : 1);
#pragma unroll
  for (int i = 0; i < N; i += STEP) {
    float loaded[STEP];
    bool inside = first + i < uint(V);
    if (inside) {
      load_values<STEP>(logits + first + i, loaded);
    }
#pragma unroll
    for (int e = 0; e < STEP; e++) {
      to[i + e] = inside ? loaded[e] : -INFINITY;
    }
  }
}

// They become what is drawn from: penalised, biased, masked, divided by the temperature.
template <int V, int N, bool PENALTIES, bool BIAS, bool MASK, typename K>
METAL_FUNC void shape_logits(thread const K& tokens, thread const Shaping& shaping, uint first, thread float (&v)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    uint t = first + i;
    if (t < uint(V)) {
      if (PENALTIES) {
        if (float(tokens.counts[V + t]) > 0.0f) {
          v[i] = v[i] > 0.0f ? v[i] / shaping.repetition : v[i] * shaping.repetition;
        }
        float count = float(tokens.counts[t]);
        float once = count > 0.0f ? shaping.presence : 0.0f;
        float each = shaping.frequency * count;
        v[i] = (v[i] - once) - each;
      }
      if (BIAS) {
        v[i] = v[i] + float(tokens.bias[t]);
      }
      if (MASK) {
        v[i] = (uint(tokens.mask[t / 32]) >> (t % 32)) & 1u ? v[i] : -INFINITY;
      }
      if (shaping.temperature != 1.0f) {
        v[i] = v[i] / shaping.temperature;
      }
    }
  }
}

// A number whose order is that of floats; both zeros have the same.
METAL_FUNC uint order_of(float v) {
  uint bits = as_type<uint>(v == 0.0f ? 0.0f : v);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

METAL_FUNC float value_of(uint order) {
  return as_type<float>(order >> 31 ? order & 0x7fffffffu : ~order);
}

METAL_FUNC float weight_of(float v, float high) {
  return v == -INFINITY ? 0.0f : metal::precise::exp(v - high);
}

// ---- over a threadgroup of `simds` simdgroups, whose scratch has 32 elements; all threads get the result

// The largest value, and of equal ones the lowest token.
METAL_FUNC void simd_best(thread float& value, thread uint& token) {
  float own = value;
  value = simd_max(own);
  token = simd_min(own == value ? token : NO_TOKEN);
}

METAL_FUNC void group_best(thread float& value, thread uint& token, threadgroup float* values,
                           threadgroup uint* numbers, uint lane, uint simd, uint simds) {
  simd_best(value, token);
  if (lane == 0) {
    values[simd] = value;
    numbers[simd] = token;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  value = lane < simds ? values[lane] : -INFINITY;
  token = lane < simds ? numbers[lane] : NO_TOKEN;
  simd_best(value, token);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

METAL_FUNC uint group_min(uint x, threadgroup uint* numbers, uint lane, uint simd, uint simds) {
  x = simd_min(x);
  if (lane == 0) {
    numbers[simd] = x;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x = simd_min(lane < simds ? numbers[lane] : NO_TOKEN);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return x;
}

// The sum of x over the threads before this one, and over all of them.
METAL_FUNC float group_before(float x, thread float& total, threadgroup float* values, uint lane, uint simd,
                              uint simds) {
  float upto = simd_prefix_inclusive_sum(x);
  float before = simd_shuffle_up(upto, ushort(1));
  if (lane == 31) {
    values[simd] = upto;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sums = simd_prefix_inclusive_sum(lane < simds ? values[lane] : 0.0f);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  total = simd_shuffle(sums, ushort(31));
  float others = simd_shuffle(sums, ushort(simd == 0 ? 0u : simd - 1u));
  return (simd == 0 ? 0.0f : others) + (lane == 0 ? 0.0f : before);
}
