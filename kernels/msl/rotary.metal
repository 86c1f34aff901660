// rotary.metal: one head of a row of qkv, normed and turned to its position, by one simdgroup. A lane has the elements
// lane, lane + 32, ...
//
// The angle of pair i is at / periods[i]; its elements are i and i + DIMS/2, or 2i and 2i + 1.
#include "load_now.metal"

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

// Head `unit` of those that a threadgroup of self-attention turns, rows of q, then the new tokens' keys and values: which of
// these three it is, its token, and which head of a row of qkv.
template <int GROUP, int NEW, int KV, int TILE, bool SAME>
METAL_FUNC uint3 head_of(uint unit, uint tile, uint head) {
  if (unit < uint(TILE)) {
    uint r = metal::min(tile * TILE + unit, uint(GROUP * NEW - 1));
    return uint3(0u, r % NEW, head * GROUP + r / NEW);
  }
  uint kind = 1 + (unit - TILE) % 2;
  return uint3(kind, (unit - TILE) / 2, KV * GROUP + (kind == 1 || SAME ? head : KV + head));
}

// What a lane brings of a head: its elements, the norm's gain for them, the periods of its angles.
template <int D, int ANGLES>
struct Head {
  float v[D / 32];
  float gain[D / 32];
  float periods[ANGLES > 0 ? ANGLES : 1];
};

template <int DIMS, bool INTERLEAVED, typename T, int D, int A, typename P>
METAL_FUNC void bring_head(thread Head<D, A>& head, const device T* source, const device T* weight, bool weighted,
                           P periods, uint lane) {
#pragma unroll
  for (int a = 0; a < A; a++) {
    head.periods[a] = load_now(periods + pair_of<DIMS, INTERLEAVED>(metal::min(int(lane) + 32 * a, DIMS - 1)));
  }
#pragma unroll
  for (int e = 0; e < D / 32; e++) {
    head.v[e] = float(load_now(source + (lane + 32 * e)));
  }
#pragma unroll
  for (int e = 0; e < D / 32; e++) {
    head.gain[e] = weighted ? float(load_now(weight + (lane + 32 * e))) : 1.0f;
  }
}

// v = turn(head / rms * gain). All angles come before the first sum: this is a chain of waits. `scratch` is room for D floats of
// the simdgroup's own; `turned` says whether this head turns at all.
template <int DIMS, bool INTERLEAVED, int D, int A>
METAL_FUNC void turn_head(thread float (&v)[D / 32], thread Head<D, A>& head, bool normed, bool turned, float at,
                          float eps, float magnitude, threadgroup float* scratch, uint lane) {
  constexpr int E = D / 32;
  constexpr int LAST = A > 0 ? A : 1;
  float c[LAST];
  float s[LAST];
  if (turned) {
#pragma unroll
    for (int a = 0; a < A; a++) {
      float angle = at / head.periods[a];
      c[a] = metal::precise::cos(angle);
      s[a] = metal::precise::sin(angle);
    }
  }
  float square = 0.0f;
#pragma unroll
  for (int e = 0; e < E; e++) {
    v[e] = head.v[e];
    square = metal::fma(v[e], v[e], square);
  }
  square = simd_sum(square);
  float inverse = normed ? metal::precise::rsqrt(square / float(D) + eps) : 1.0f;
#pragma unroll
  for (int e = 0; e < E; e++) {
    v[e] = v[e] * inverse * head.gain[e];
    scratch[lane + 32 * e] = v[e];
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  if (turned) {
#pragma unroll
    for (int e = 0; e < E; e++) {
      int i = int(lane) + 32 * e;
      if (i < DIMS) {
        float other = scratch[partner<DIMS, INTERLEAVED>(i)];
        float cosine = c[e % LAST];
        float sine = s[e % LAST];
        v[e] = magnitude * (is_first<DIMS, INTERLEAVED>(i) ? metal::fma(v[e], cosine, -(other * sine))
                                                           : metal::fma(v[e], cosine, other * sine));
      }
    }
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
}
