// rotary.metal: one head of a row of qkv, normed and turned to its position, by one simdgroup. A lane has the elements
// lane, lane + 32, ...
//
// The angle of pair i is at / periods[i]; its elements are i and i + DIMS/2, or 2i and 2i + 1.

// The elements of a pair, and what they become.
template <int DIMS, bool INTERLEAVED>
METAL_FUNC int partner(int i) {
  if (INTERLEAVED) {
    return i ^ 1;
  }
  return i < DIMS / 2 ? i + DIMS / 2 : i - DIMS / 2;
}

template <int DIMS, bool INTERLEAVED>
METAL_FUNC int pair_of(int i) {
  if (INTERLEAVED) {
    return i / 2;
  }
  return i < DIMS / 2 ? i : i - DIMS / 2;
}

template <int DIMS, bool INTERLEAVED>
METAL_FUNC bool is_first(int i) {
  return INTERLEAVED ? i % 2 == 0 : i < DIMS / 2;
}

// v = turn(source / rms * gain). All loads and angles come before the first sum: this is a chain of waits.
// `scratch` is room for D floats of the simdgroup's own; `turned` says whether this head turns at all.
template <int D, int DIMS, bool INTERLEAVED, typename T, typename P>
METAL_FUNC void turned_head(const device T* source, const device T* weight, bool normed, bool weighted, bool turned,
                            P periods, float at, float eps, float magnitude, threadgroup float* scratch, uint lane,
                            thread float (&v)[D / 32]) {
  constexpr int E = D / 32;
  float gain[E];
  float c[E];
  float s[E];
#pragma unroll
  for (int e = 0; e < E; e++) {
    int i = int(lane) + 32 * e;
    v[e] = float(source[i]);
    gain[e] = 1.0f;
    if (weighted) {
      gain[e] = float(weight[i]);
    }
    if (i < DIMS && turned) {
      float angle = at / periods[pair_of<DIMS, INTERLEAVED>(i)];
      c[e] = metal::precise::cos(angle);
      s[e] = metal::precise::sin(angle);
    }
  }
  float square = 0.0f;
#pragma unroll
  for (int e = 0; e < E; e++) {
    square = metal::fma(v[e], v[e], square);
  }
  square = simd_sum(square);
  float inverse = normed ? metal::precise::rsqrt(square / float(D) + eps) : 1.0f;
#pragma unroll
  for (int e = 0; e < E; e++) {
    v[e] = v[e] * inverse * gain[e];
    scratch[lane + 32 * e] = v[e];
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  if (turned) {
#pragma unroll
    for (int e = 0; e < E; e++) {
      int i = int(lane) + 32 * e;
      if (i < DIMS) {
        float other = scratch[partner<DIMS, INTERLEAVED>(i)];
        float moved = is_first<DIMS, INTERLEAVED>(i) ? metal::fma(v[e], c[e], -(other * s[e])) : metal::fma(v[e], c[e], other * s[e]);
        v[e] = moved * magnitude;
      }
    }
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
}
