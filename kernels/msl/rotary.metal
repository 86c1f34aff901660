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

// How many angles a lane needs for its elements: those of its second halves of a pair are those of its first.
template <int DIMS, bool INTERLEAVED>
METAL_FUNC constexpr int angles_of() { return !INTERLEAVED && DIMS % 64 == 0 && DIMS > 0 ? DIMS / 64 : (DIMS + 31) / 32; }

// v = turn(source / rms * gain). All loads come before all angles, and these before the first sum: this is a chain of waits.
// `scratch` is room for D floats of the simdgroup's own; `turned` says whether this head turns at all.
template <int D, int DIMS, bool INTERLEAVED, typename T, typename P>
METAL_FUNC void turned_head(const device T* source, const device T* weight, bool normed, bool weighted, bool turned,
                            P periods, float at, float eps, float magnitude, threadgroup float* scratch, uint lane,
                            thread float (&v)[D / 32]) {
  constexpr int E = D / 32;
  constexpr int A = angles_of<DIMS, INTERLEAVED>();
  float gain[E];
  float c[A > 0 ? A : 1];
  float s[A > 0 ? A : 1];
#pragma unroll
  for (int a = 0; a < A; a++) {
    c[a] = periods[pair_of<DIMS, INTERLEAVED>(metal::min(int(lane) + 32 * a, DIMS - 1))];
  }
#pragma unroll
  for (int e = 0; e < E; e++) {
    v[e] = float(source[lane + 32 * e]);
  }
#pragma unroll
  for (int e = 0; e < E; e++) {
    gain[e] = weighted ? float(weight[lane + 32 * e]) : 1.0f;
  }
  if (turned) {
#pragma unroll
    for (int a = 0; a < A; a++) {
      float angle = at / c[a];
      c[a] = metal::precise::cos(angle);
      s[a] = metal::precise::sin(angle);
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
        constexpr int last = A > 0 ? A : 1;
        float other = scratch[partner<DIMS, INTERLEAVED>(i)];
        float cosine = c[e % last];
        float sine = s[e % last];
        float moved = is_first<DIMS, INTERLEAVED>(i) ? metal::fma(v[e], cosine, -(other * sine)) : metal::fma(v[e], cosine, other * sine);
        v[e] = moved * magnitude;
      }
    }
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
}
