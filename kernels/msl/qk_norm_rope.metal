// qk_norm_rope.metal: the heads of a row of qkv, each normed and turned to its position. One simdgroup a head.
//
// qkv [B, NEW, (HEADS + copies of KV_HEADS) D]; position [B]; periods [DIMS / 2]; q_gain, k_gain, v_gain [D], where there
// are norms with a weight; slots [B NEW]; keys, values [KV_HEADS, slots, D], written; size [2] slots of the pool, ...
// after: waited for, not read -> q [B, HEADS, NEW, D]. With SAME the row has no values: they are the keys before norm and rope.
//
// The angle of pair i is position * SCALE / periods[i]; its elements are i and i + DIMS/2, or 2i and 2i + 1.

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

// ---- body
  constexpr int E = D / 32;                             // elements of a lane: lane, lane + 32, ...
  constexpr int ALL = HEADS + 2 * KV_HEADS;             // heads to be written
  constexpr int GIVEN = HEADS + (SAME ? 1 : 2) * KV_HEADS;

  threadgroup float heads[SIMDS * D];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint unit = threadgroup_position_in_grid.x * SIMDS + simd;
  bool inside = unit < uint(B * NEW * ALL);
  unit = inside ? unit : 0;
  uint head = unit % ALL;
  uint token = unit / ALL % NEW;
  uint row = unit / (ALL * NEW);
  int kind = head < uint(HEADS) ? 0 : (head < uint(HEADS + KV_HEADS) ? 1 : 2);   // q, k, v
  uint from = SAME && kind == 2 ? head - KV_HEADS : head;

  auto source = qkv + (size_t(row) * NEW + token) * (GIVEN * D) + from * D;
  // All loads and angles come before the first sum: a kernel this small is a chain of waits.
  float v[E];
  float gain[E];
  float c[E];
  float s[E];
  float at = float(position[row] + int(token)) * as_type<float>(SCALE);
  size_t slot = KV_HEADS > 0 ? size_t(uint(slots[row * NEW + token])) : 0;
  size_t capacity = KV_HEADS > 0 ? size_t(uint(size[0])) : 0;
#pragma unroll
  for (int e = 0; e < E; e++) {
    int i = int(lane) + 32 * e;
    v[e] = float(source[i]);
    gain[e] = 1.0f;
    if (Q_GAIN && kind == 0) {
      gain[e] = float(q_gain[i]);
    }
    if (K_GAIN && kind == 1) {
      gain[e] = float(k_gain[i]);
    }
    if (V_GAIN && kind == 2) {
      gain[e] = float(v_gain[i]);
    }
    if (i < DIMS && kind < 2) {
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
  bool normed = kind == 0 ? Q_NORM : (kind == 1 ? K_NORM : V_NORM);
  float inverse = normed ? metal::precise::rsqrt(square / float(D) + as_type<float>(EPS)) : 1.0f;
#pragma unroll
  for (int e = 0; e < E; e++) {
    v[e] = v[e] * inverse * gain[e];
    heads[simd * D + lane + 32 * e] = v[e];
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);

  if (DIMS > 0 && kind < 2) {
#pragma unroll
    for (int e = 0; e < E; e++) {
      int i = int(lane) + 32 * e;
      if (i < DIMS) {
        float other = heads[simd * D + partner<DIMS, INTERLEAVED>(i)];
        float turned = is_first<DIMS, INTERLEAVED>(i) ? metal::fma(v[e], c[e], -(other * s[e])) : metal::fma(v[e], c[e], other * s[e]);
        v[e] = turned * as_type<float>(MAGNITUDE);
      }
    }
  }
  if (inside) {
    if (kind == 0) {
      auto to = q + ((size_t(row) * HEADS + head) * NEW + token) * D;
#pragma unroll
      for (int e = 0; e < E; e++) {
        to[lane + 32 * e] = T(v[e]);
      }
    } else {
      uint own = kind == 1 ? head - HEADS : head - HEADS - KV_HEADS;
      size_t to = (size_t(own) * capacity + slot) * D;
      auto pool = kind == 1 ? keys : values;
#pragma unroll
      for (int e = 0; e < E; e++) {
        ((device T*)pool)[to + lane + 32 * e] = T(v[e]);
      }
    }
  }
