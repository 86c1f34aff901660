// gated_delta.metal: the gated delta rule token by token, the states of a head in registers; with NORMED, then the norm of
// the head and the gate.
//
// qkv [B, T, 2 HK DK + HV DV]; a, b: HV columns from A_FIRST of [B, T, A_WIDTH], and so on; state [B, HV, DV, DK] float32;
// rate, dt_bias [HV] float32; gate: HV DV columns from Z_FIRST; gain [DV]; size [1] T -> y [B, T, HV, DV]; states:
// like state, after the last token, or with KEEP [B, T, HV, DV, DK], after every one.
//
// A threadgroup has a head of a row, or one of SLICES of its DV values; a simdgroup ROWS of these, a lane DK / 32 keys of
// each. What happens to a token does not depend on how many there are; its loads run one token ahead.
#include "recurrent.metal"

// A lane's part of q and k, and a simdgroup's values of v.
template <int STEP, int KEYS, int E, int ROWS, typename T>
METAL_FUNC void load_token(const device T* keys, const device T* head, thread uint (&rows)[ROWS], thread float (&q)[E],
                           thread float (&k)[E], thread float (&v)[ROWS]) {
  load_values<STEP>(keys, q);
  load_values<STEP>(keys + KEYS, k);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    v[r] = float(head[rows[r]]);
  }
}

// ---- body
  constexpr int E = DK / 32;
  constexpr int STEP = step_of(E);
  constexpr int WIDTH = 2 * HK * DK + HV * DV;
  constexpr int LOAD = WIDTH % STEP == 0 ? STEP : 1;

  threadgroup float squares[2 * SIMDS];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint head = threadgroup_position_in_grid.y;
  size_t row = threadgroup_position_in_grid.z;
  uint first = (threadgroup_position_in_grid.x * SIMDS + simd) * ROWS;
  uint key_head = head / (HV / HK);
  int count = size[0];

  float s[ROWS][E];
  uint values[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    values[r] = metal::min(first + r, uint(DV - 1));    // past the end: computed, not stored
    load_values<STEP>(state + ((row * HV + head) * DV + values[r]) * DK + lane * E, s[r]);
  }
  auto keys = qkv + row * count * WIDTH + key_head * DK + lane * E;
  auto own = qkv + row * count * WIDTH + 2 * HK * DK + head * DV;
  float next_q[E];
  float next_k[E];
  float next_v[ROWS];
  load_token<LOAD, HK * DK>(keys, own, values, next_q, next_k, next_v);
  for (int t = 0; t < count; t++) {
    size_t token = row * count + t;
    float q[E];
    float k[E];
    float v[ROWS];
#pragma unroll
    for (int e = 0; e < E; e++) {
      q[e] = next_q[e];
      k[e] = next_k[e];
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      v[r] = next_v[r];
    }
    size_t later = size_t(metal::min(t + 1, count - 1)) * WIDTH;
    load_token<LOAD, HK * DK>(keys + later, own + later, values, next_q, next_k, next_v);
    float rise = softplus(float(a[token * A_WIDTH + A_FIRST + head]) + dt_bias[head]);
    float decay = metal::precise::exp(-rate[head] * rise);
    float beta = sigmoid(float(b[token * B_WIDTH + B_FIRST + head]));
    float qq = 0.0f;
    float kk = 0.0f;
#pragma unroll
    for (int e = 0; e < E; e++) {
      qq = metal::fma(q[e], q[e], qq);
      kk = metal::fma(k[e], k[e], kk);
    }
    qq = metal::precise::rsqrt(simd_sum(qq) + 1e-6f) * metal::precise::rsqrt(float(DK));
    kk = metal::precise::rsqrt(simd_sum(kk) + 1e-6f);
#pragma unroll
    for (int e = 0; e < E; e++) {
      q[e] = q[e] * qq;
      k[e] = k[e] * kk;
    }
    float out[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float seen = 0.0f;
#pragma unroll
      for (int e = 0; e < E; e++) {
        s[r][e] = s[r][e] * decay;
        seen = metal::fma(s[r][e], k[e], seen);
      }
      float error = beta * (v[r] - simd_sum(seen));
      out[r] = 0.0f;
#pragma unroll
      for (int e = 0; e < E; e++) {
        s[r][e] = metal::fma(error, k[e], s[r][e]);
        out[r] = metal::fma(s[r][e], q[e], out[r]);
      }
      out[r] = simd_sum(out[r]);
    }
    if (KEEP) {
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        if (first + r < uint(DV)) {
          store_values<STEP>(states + ((token * HV + head) * DV + values[r]) * DK + lane * E, s[r]);
        }
      }
    }
    float inverse = 1.0f;
    if (NORMED) {
      float square = 0.0f;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        square = first + r < uint(DV) ? metal::fma(out[r], out[r], square) : square;
      }
      int turn = t % 2 * SIMDS;                         // who writes the next one must not wait for who reads this one
      if (lane == 0) {
        squares[turn + simd] = square;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < SIMDS; i++) {
        total += squares[turn + i];
      }
      inverse = metal::precise::rsqrt(total / float(DV) + as_type<float>(EPS));
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      if (lane == uint(r) && first + r < uint(DV)) {
        float value = out[r];
        if (NORMED) {
          float z = float(gate[token * Z_WIDTH + Z_FIRST + head * DV + values[r]]);
          value = value * inverse * float(gain[values[r]]) * (z * sigmoid(z));
        }
        y[(token * HV + head) * DV + values[r]] = T(value);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (!KEEP && first + r < uint(DV)) {
      store_values<STEP>(states + ((row * HV + head) * DV + values[r]) * DK + lane * E, s[r]);
    }
  }
