// add_norm.metal: x + rms_norm(y), times a scalar where SCALED. A threadgroup takes a row, a thread every THREADS-th
// STEP elements of it.
//
// x, y [R, D]; weight [D], where WEIGHTED; scale [1] -> o [R, D]. In float16 the sum is clipped to the finite range.
#include "packed.metal"

// ---- body
  constexpr int STEP = D % 4 == 0 ? 4 : (D % 2 == 0 ? 2 : 1);
  constexpr int THREADS = 32 * SIMDS;
  constexpr int ROUNDS = (D / STEP + THREADS - 1) / THREADS;

  threadgroup float squares[SIMDS];

  uint thread_index = thread_index_in_threadgroup;
  size_t row = size_t(threadgroup_position_in_grid.x) * D;
  float v[ROUNDS][STEP];
  float square = 0.0f;
#pragma unroll
  for (int r = 0; r < ROUNDS; r++) {
    int i = (r * THREADS + int(thread_index)) * STEP;
    if (i < D) {
      load_values<STEP>(y + row + i, v[r]);
#pragma unroll
      for (int e = 0; e < STEP; e++) {
        square = metal::fma(v[r][e], v[r][e], square);
      }
    }
  }
  square = simd_sum(square);
  if (thread_index_in_simdgroup == 0) {
    squares[simdgroup_index_in_threadgroup] = square;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
  for (int s = 0; s < SIMDS; s++) {
    total += squares[s];
  }
  float inverse = metal::precise::rsqrt(total / float(D) + as_type<float>(EPS));

#pragma unroll
  for (int r = 0; r < ROUNDS; r++) {
    int i = (r * THREADS + int(thread_index)) * STEP;
    if (i < D) {
      float gain[STEP];
      float given[STEP];
      load_values<STEP>(weight + (WEIGHTED ? i : 0), gain);
      load_values<STEP>(x + row + i, given);
#pragma unroll
      for (int e = 0; e < STEP; e++) {
        float sum = metal::fma(v[r][e] * inverse, WEIGHTED ? gain[e] : 1.0f, given[e]);
        if (metal::is_same_v<T, half>) {
          sum = metal::clamp(sum, -65504.0f, 65504.0f);
        }
        o[row + i + e] = T(SCALED ? sum * float(scale[0]) : sum);
      }
    }
  }
