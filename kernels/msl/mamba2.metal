// mamba2.metal: Mamba-2's recurrence token by token, the states of a head in registers.
//
// xbc [B, T, H D + 2 G N]: x, then b, then c; dt: H columns from DT_FIRST of [B, T, DT_WIDTH]; state [B, H, D, N] float32;
// a, d, dt_bias [H] float32; size [1] T -> y [B, T, H, D]; states: like state, after the last token, or with KEEP
// [B, T, H, D, N], after every one.
//
// A threadgroup has a head of a row, or a slice of its D values; a simdgroup ROWS of these, a lane N / 32 elements of each.
// What happens to a token does not depend on how many there are; its loads run one token ahead.
#include "recurrent.metal"

// A lane's part of b and c, and a simdgroup's values of x.
template <int STEP, int BC, int E, int ROWS, typename T>
METAL_FUNC void load_token(const device T* group, const device T* head, thread uint (&rows)[ROWS], thread float (&b)[E],
                           thread float (&c)[E], thread float (&x)[ROWS]) {
  load_values<STEP>(group, b);
  load_values<STEP>(group + BC, c);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    x[r] = float(head[rows[r]]);
  }
}

// ---- body
  constexpr int E = N / 32;
  constexpr int STEP = step_of(E);
  constexpr int WIDTH = H * D + 2 * G * N;
  constexpr int LOAD = WIDTH % STEP == 0 && H * D % STEP == 0 ? STEP : 1;

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint head = threadgroup_position_in_grid.y;
  size_t row = threadgroup_position_in_grid.z;
  uint first = (threadgroup_position_in_grid.x * SIMDS + simd) * ROWS;
  int count = size[0];

  float s[ROWS][E];
  uint values[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    values[r] = metal::min(first + r, uint(D - 1));     // past the end: computed, not stored
    load_values<STEP>(state + ((row * H + head) * D + values[r]) * N + lane * E, s[r]);
  }
  auto group = xbc + row * count * WIDTH + H * D + head / (H / G) * N + lane * E;
  auto own = xbc + row * count * WIDTH + head * D;
  float next_b[E];
  float next_c[E];
  float next_x[ROWS];
  load_token<LOAD, G * N>(group, own, values, next_b, next_c, next_x);
  for (int t = 0; t < count; t++) {
    size_t token = row * count + t;
    float b[E];
    float c[E];
    float x[ROWS];
#pragma unroll
    for (int e = 0; e < E; e++) {
      b[e] = next_b[e];
      c[e] = next_c[e];
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      x[r] = next_x[r];
    }
    size_t later = size_t(metal::min(t + 1, count - 1)) * WIDTH;
    load_token<LOAD, G * N>(group + later, own + later, values, next_b, next_c, next_x);
    float rise = softplus(float(dt[token * DT_WIDTH + DT_FIRST + head]) + dt_bias[head]);
    rise = metal::min(metal::max(rise, as_type<float>(LOW)), as_type<float>(HIGH));
    float decay = metal::precise::exp(rise * a[head]);
    float out[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float moved = rise * x[r];
      out[r] = 0.0f;
#pragma unroll
      for (int e = 0; e < E; e++) {
        s[r][e] = metal::fma(moved, b[e], decay * s[r][e]);
        out[r] = metal::fma(s[r][e], c[e], out[r]);
      }
      out[r] = metal::fma(d[head], x[r], simd_sum(out[r]));
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      if (first + r < uint(D)) {
        if (lane == uint(r)) {
          y[(token * H + head) * D + values[r]] = T(out[r]);
        }
        if (KEEP) {
          store_values<STEP>(states + ((token * H + head) * D + values[r]) * N + lane * E, s[r]);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (!KEEP && first + r < uint(D)) {
      store_values<STEP>(states + ((row * H + head) * D + values[r]) * N + lane * E, s[r]);
    }
  }
