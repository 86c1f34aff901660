// rotary.metal: one head of a row of qkv, normed and turned to its position, by one simdgroup. A lane has P neighbours of
// each 32 P elements.
//
// The angle of pair i is at / periods[i]; its elements are i and i + DIMS/2, or 2i and 2i + 1. Kernels compute it, or find its
// cosine and sine computed by rotation.metal.
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

// Neighbours that leave a lane both elements of a pair: then lanes exchange nothing, and there are fewer loads.
template <int D, int DIMS, bool INTERLEAVED>
METAL_FUNC constexpr int neighbours_of() { return D % 64 == 0 && (INTERLEAVED || DIMS % 128 == 0) ? 2 : 1; }

// Which element of a head a lane's element e is.
template <int P>
METAL_FUNC int element_of(int e, uint lane) { return e / P * (32 * P) + int(lane) * P + e % P; }

template <int DIMS, bool INTERLEAVED, int P>
METAL_FUNC constexpr bool has_pairs() { return INTERLEAVED ? P == 2 : DIMS % (64 * P) == 0; }

// How many angles a lane needs for its elements, and which of them is of its element e.
template <int DIMS, bool INTERLEAVED, int P>
METAL_FUNC constexpr int angles_of() { return has_pairs<DIMS, INTERLEAVED, P>() ? (DIMS + 63) / 64 : (DIMS + 31) / 32; }
template <int DIMS, bool INTERLEAVED, int P>
METAL_FUNC constexpr int angle_of(int e) {
  constexpr int count = angles_of<DIMS, INTERLEAVED, P>();
  return INTERLEAVED && P == 2 ? e / 2 : e % (count > 0 ? count : 1);
}

// What belongs to a head: of queries (0), of keys (1) or of values.
template <typename V>
METAL_FUNC V of_kind(uint kind, V query, V key, V value) { return kind == 0 ? query : (kind == 1 ? key : value); }

// The norms' gains stand one after another, of those kinds that have one; where this kind has none, it is not to be read.
template <int D, bool QUERIES, bool KEYS, typename T>
METAL_FUNC const device T* gain_of_kind(const device T* gains, uint kind) {
  return gains + D * of_kind(kind, 0, int(QUERIES), int(QUERIES) + int(KEYS));
}

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

// A lane's elements of a head as they are loaded: two in a word where they are neighbours of 16 bits.
template <int P, typename T>
METAL_FUNC constexpr bool paired() { return P == 2 && sizeof(T) == 2; }
template <typename T, bool PAIRED> struct Loaded {
  using type = T;
};
template <typename T> struct Loaded<T, true> {
  using type = int;
};

// What a lane brings of a head: its elements, the norm's gain for them. Nothing of it is computed with before all else is asked
// for: what is cold in the cache is waited for.
template <typename T, int D, int P>
struct Head {
  typename Loaded<T, paired<P, T>()>::type v[D / (paired<P, T>() ? 64 : 32)];
  typename Loaded<T, paired<P, T>()>::type gain[D / (paired<P, T>() ? 64 : 32)];
};

// Cosines and sines of a lane's angles.
template <int DIMS, bool INTERLEAVED, int P>
struct Turn {
  float cosines[DIMS > 0 ? angles_of<DIMS, INTERLEAVED, P>() : 1];
  float sines[DIMS > 0 ? angles_of<DIMS, INTERLEAVED, P>() : 1];
};

// Which pair a lane's angle a is of.
template <int DIMS, bool INTERLEAVED, int P>
METAL_FUNC int pair_of_angle(int a, uint lane) {
  int i = element_of<P>(INTERLEAVED && P == 2 ? 2 * a : a, lane);
  return pair_of<DIMS, INTERLEAVED>(metal::min(i, DIMS - 1));
}

template <int DIMS, bool INTERLEAVED, int P, typename Periods>
METAL_FUNC void compute_turn(thread Turn<DIMS, INTERLEAVED, P>& turn, float at, Periods periods, uint lane) {
#pragma unroll
  for (int a = 0; a < angles_of<DIMS, INTERLEAVED, P>(); a++) {
    float angle = at / periods[pair_of_angle<DIMS, INTERLEAVED, P>(a, lane)];
    turn.cosines[a] = metal::precise::cos(angle);
    turn.sines[a] = metal::precise::sin(angle);
  }
}

// turns [2, DIMS / 2] of a token: cosines and sines.
template <int DIMS, bool INTERLEAVED, int P, typename Turns>
METAL_FUNC void bring_turn(thread Turn<DIMS, INTERLEAVED, P>& turn, Turns turns, uint lane) {
#pragma unroll
  for (int a = 0; a < angles_of<DIMS, INTERLEAVED, P>(); a++) {
    int pair = pair_of_angle<DIMS, INTERLEAVED, P>(a, lane);
    turn.cosines[a] = load_now(turns + pair);
    turn.sines[a] = load_now(turns + DIMS / 2 + pair);
  }
}

template <int P, typename T, typename Word, int N>
METAL_FUNC void bring_elements(thread Word (&to)[N], const device T* from, uint lane) {
  constexpr int PER = paired<P, T>() ? 2 : 1;           // in a word
#pragma unroll
  for (int i = 0; i < N; i++) {
    to[i] = load_now((const device Word*)(from + element_of<P>(PER * i, lane)));
  }
}

template <typename T, int E, typename Word, int N>
METAL_FUNC void as_floats(thread float (&v)[E], thread Word (&given)[N]) {
#pragma unroll
  for (int e = 0; e < E; e++) {
    if constexpr (N < E) {
      vec<T, 2> pair = as_type<vec<T, 2>>(given[e / 2]);
      v[e] = float(e % 2 == 0 ? pair.x : pair.y);
    } else {
      v[e] = float(given[e]);
    }
  }
}

template <typename T, int D, int P>
METAL_FUNC void bring_head(thread Head<T, D, P>& head, const device T* source, const device T* weight, bool weighted, uint lane) {
  bring_elements<P>(head.v, source, lane);
#pragma unroll
  for (int i = 0; i < D / (paired<P, T>() ? 64 : 32); i++) {
    head.gain[i] = typename Loaded<T, paired<P, T>()>::type(0.0f);
  }
  if (weighted) {
    bring_elements<P>(head.gain, weight, lane);
  }
}

// v = turn(head / rms * gain). `scratch` is room for D floats of the simdgroup's own; `turned` says whether this head turns at all.
template <typename T, int D, int DIMS, bool INTERLEAVED, int P>
METAL_FUNC void turn_head(thread float (&v)[D / 32], thread Head<T, D, P>& head, bool normed, bool weighted, bool turned,
                          thread Turn<DIMS, INTERLEAVED, P>& turn, float eps, float magnitude, threadgroup float* scratch, uint lane) {
  constexpr int E = D / 32;
  as_floats<T>(v, head.v);
  float gain[E];
  as_floats<T>(gain, head.gain);
  float square = 0.0f;
#pragma unroll
  for (int e = 0; e < E; e++) {
    square = metal::fma(v[e], v[e], square);
  }
  square = simd_sum(square);
  float inverse = normed ? metal::precise::rsqrt(square / float(D) + eps) : 1.0f;
  float before[E];                                      // it turns
#pragma unroll
  for (int e = 0; e < E; e++) {
    before[e] = v[e] * inverse * (weighted ? gain[e] : 1.0f);
    v[e] = before[e];
  }
  constexpr bool OWN = has_pairs<DIMS, INTERLEAVED, P>();
  if (!OWN) {
#pragma unroll
    for (int e = 0; e < E; e++) {
      scratch[element_of<P>(e, lane)] = before[e];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
  if (turned) {
#pragma unroll
    for (int e = 0; e < E; e++) {
      int i = element_of<P>(e, lane);
      if (i < DIMS) {
        constexpr int apart = DIMS / 64;                // the two of a pair, in a lane
        int own = INTERLEAVED ? e ^ 1 : (e < apart ? e + apart : e - apart);
        float other = OWN ? before[own < E ? own : e] : scratch[partner<DIMS, INTERLEAVED>(i)];
        float cosine = turn.cosines[angle_of<DIMS, INTERLEAVED, P>(e)];
        float sine = turn.sines[angle_of<DIMS, INTERLEAVED, P>(e)];
        v[e] = magnitude * (is_first<DIMS, INTERLEAVED>(i) ? metal::fma(before[e], cosine, -(other * sine))
                                                           : metal::fma(before[e], cosine, other * sine));
      }
    }
  }
  if (!OWN) {
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

// A lane gets the elements lane, lane + 32, ... for its neighbours. `scratch` as above.
template <int P, int E>
METAL_FUNC void spread(thread float (&v)[E], threadgroup float* scratch, uint lane) {
  if constexpr (P > 1) {
    simdgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
    for (int e = 0; e < E; e++) {
      scratch[element_of<P>(e, lane)] = v[e];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
    for (int e = 0; e < E; e++) {
      v[e] = scratch[lane + 32 * e];
    }
  }
}

// Two neighbours as the word that they are stored in, where they are of 16 bits.
template <typename T>
METAL_FUNC uint pair_of_values(float a, float b) { return as_type<uint>(vec<T, 2>(T(a), T(b))); }
