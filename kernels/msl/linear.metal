// linear.metal: y = act(norm(x) W^T + bias) + residual for 1..8 rows, one dot product a lane.
//
// A simdgroup takes ROWS rows of W, its lanes VALUES consecutive k of each at a step; SPLIT simdgroups share the
// k of one set of rows. So a weight is read once for all rows of x, and what happens to a row of x is the same for every M.
//
// x [M, K]; w [R, K] packed or plain; scales and biases [2, R, K / GROUP]; bias [R]; gain [K], see gain_of; residual [M, O];
// y [M, O].
// R = 2 O where gated (rows of W: gates, then ups), else O. BITS 4, 8: packed; 16, 32: plain, of type T.
//
// A packed value q is read as BASE + q (packed.metal); what the bases add to a sum of products is taken off it. That costs
// some bits of the sum: in float32, where they would show, every weight is scaled by itself. The norm's 1 / rms is a
// factor of the whole row: it is applied last.
#include "packed.metal"
#include "activation.metal"

// V consecutive weights as floats: packed ones as BASE + q.
template <int BITS, int V, typename T, typename P>
METAL_FUNC void load_weights(P w, size_t row, int k, int K, thread float (&to)[V]) {
  if constexpr (BITS < 16) {
    constexpr int per = 32 / BITS;
    uint words[V / per];
    load_words(w + row * (K / per) + k / per, words);
#pragma unroll
    for (int i = 0; i < V; i++) {
      to[i] = number<BITS>(words[i / per], i % per);
    }
  } else {
    load_values<4>((const device T*)w + row * K + k, to);
  }
}

// ---- body
  constexpr int V = VALUES;
  constexpr bool PACKED = BITS < 16;
  constexpr bool GATED = ACT == 1 || ACT == 2;
  constexpr bool FACTORED = PACKED && !metal::is_same_v<T, float>; // the scale is applied to sums, not to weights
  constexpr int PER_SIMD = GATED ? ROWS / 2 : ROWS;                // outputs of a simdgroup
  constexpr int SETS = SIMDS / SPLIT;                              // sets of rows in a threadgroup
  constexpr int OUTS = PER_SIMD * SETS;
  constexpr size_t TABLE = PACKED ? size_t(GATED ? 2 : 1) * O * (K / GROUP) : 0;
  auto biases = scales + TABLE;
  auto norm_gain = gain_of<BEHIND>(scales, 2 * TABLE, gain);

  threadgroup float sums[SIMDS * M * ROWS];
  threadgroup float squares[SIMDS * M];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint group = threadgroup_position_in_grid.x;
  uint part = simd % SPLIT;
  uint out0 = (group * SETS + simd / SPLIT) * PER_SIMD;

  float acc[M][ROWS];
  float square[M];
  for (int m = 0; m < M; m++) {
    square[m] = 0.0f;
    for (int r = 0; r < ROWS; r++) {
      acc[m][r] = 0.0f;
    }
  }
  size_t rows[ROWS];
  for (int r = 0; r < ROWS; r++) {
    uint out = metal::min(out0 + r % PER_SIMD, uint(O - 1));       // outputs past the end: computed, not stored
    rows[r] = r < PER_SIMD ? out : out + O;
  }

  for (int k = (part * 32 + lane) * V; k < K; k += SPLIT * 32 * V) {
    float weights[ROWS][V];
    float scale[ROWS];
    float zero[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      load_weights<BITS, V, T>(w, rows[r], k, K, weights[r]);
      if (PACKED) {
        size_t g = rows[r] * (K / GROUP) + k / GROUP;
        scale[r] = float(scales[g]);
        zero[r] = float(biases[g]);
        if (!FACTORED) {
#pragma unroll
          for (int i = 0; i < V; i++) {
            weights[r][i] = metal::fma(scale[r], weights[r][i] - base_of<BITS>(i), zero[r]);
          }
        }
      }
    }
    float g[V];
    if (NORM) {
      load_values<4>(norm_gain + k, g);
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
      float v[V];
      load_values<4>(x + m * K + k, v);
      if (NORM) {
#pragma unroll
        for (int i = 0; i < V; i++) {
          square[m] = metal::fma(v[i], v[i], square[m]);
          v[i] = v[i] * g[i];
        }
      }
      float total = 0.0f;
      float bases = FACTORED ? bases_of<BITS>(v, total) : 0.0f;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        float dot = FACTORED ? 0.0f : acc[m][r];
#pragma unroll
        for (int i = 0; i < V; i++) {
          dot = metal::fma(weights[r][i], v[i], dot);
        }
        acc[m][r] = FACTORED ? metal::fma(scale[r], dot - bases, metal::fma(zero[r], total, acc[m][r])) : dot;
      }
    }
  }

  for (int m = 0; m < M; m++) {
    float total = simd_sum(square[m]);
    if (lane == 0) {
      squares[simd * M + m] = total;
    }
    for (int r = 0; r < ROWS; r++) {
      float sum = simd_sum(acc[m][r]);
      if (lane == 0) {
        sums[(simd * M + m) * ROWS + r] = sum;
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (uint i = thread_index_in_threadgroup; i < uint(OUTS * M); i += SIMDS * 32) {
    uint m = i / OUTS;
    uint out = i % OUTS;
    uint o = group * OUTS + out;
    if (o < uint(O)) {
      uint first = out / PER_SIMD * SPLIT;
      uint r = out % PER_SIMD;
      float v = 0.0f;
      float up = 0.0f;
      float total = 0.0f;
      for (uint s = first; s < first + SPLIT; s++) {
        v += sums[(s * M + m) * ROWS + r];
        up += GATED ? sums[(s * M + m) * ROWS + ROWS - PER_SIMD + r] : 0.0f;
        total += squares[s * M + m];
      }
      float inverse = NORM ? metal::precise::rsqrt(total / float(K) + as_type<float>(EPS)) : 1.0f;
      v = metal::fma(v, inverse, BIAS ? float(bias[o]) : 0.0f);
      up = metal::fma(up, inverse, BIAS && GATED ? float(bias[o + O]) : 0.0f);
      float addend = RESIDUAL ? float(residual[size_t(m) * O + o]) : 0.0f;
      y[size_t(m) * O + o] = T(finished<ACT>(v, up, addend));
    }
  }
