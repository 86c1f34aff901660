// gated_group_norm.metal: h = y silu(gate), normed over each of GROUPS groups of neighbours. A threadgroup a group of a row.
//
// y [N, GROUPS SIZE]; gate: as many columns from Z_FIRST of [N, Z_WIDTH]; gain [GROUPS SIZE] -> out like y.
#include "recurrent.metal"

// ---- body
  constexpr int THREADS = 32 * SIMDS;
  constexpr int EACH = (SIZE + THREADS - 1) / THREADS;  // elements of a thread: own, own + THREADS, ...

  threadgroup float squares[SIMDS];

  uint own = thread_index_in_threadgroup;
  uint group = threadgroup_position_in_grid.x;
  size_t row = threadgroup_position_in_grid.y;
  float h[EACH];
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    uint at = group * SIZE + own + i * THREADS;
    h[i] = 0.0f;
    if (own + i * THREADS < uint(SIZE)) {
      float z = float(gate[row * Z_WIDTH + Z_FIRST + at]);
      h[i] = float(y[row * (GROUPS * SIZE) + at]) * (z * sigmoid(z));
    }
    square = metal::fma(h[i], h[i], square);
  }
  square = simd_sum(square);
  if (thread_index_in_simdgroup == 0) {
    squares[simdgroup_index_in_threadgroup] = square;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
#pragma unroll
  for (int s = 0; s < SIMDS; s++) {
    total += squares[s];
  }
  float inverse = metal::precise::rsqrt(total / float(SIZE) + as_type<float>(EPS));
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    uint at = group * SIZE + own + i * THREADS;
    if (own + i * THREADS < uint(SIZE)) {
      out[row * (GROUPS * SIZE) + at] = T(h[i] * inverse * float(gain[at]));
    }
  }
