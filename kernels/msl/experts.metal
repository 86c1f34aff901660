// experts.metal: the first half of the experts that tokens were sent to, h = act(W_i norm(x) + bias_i), each (token,
// expert) pair by itself; experts_down.metal is the other half.
//
// x [N, K]; routed [2, N, TOP] as router.metal gives it; w [E, R, K] packed or plain; scales and biases [2, E, R, K / GROUP];
// bias [E, R]; gain [K], see gain_of.
// R = 2 O where gated (gates, then ups), else O -> h [N, TOP * O], in the order of the other half's loads: its step c of
// LANE values is found SPAN by SPAN (16 bytes), step after step, so that its lanes read neighbouring memory.
//
// A threadgroup brings its token's x, times the gain, into its memory; there the 4 values j of all steps are neighbours,
// for the same reason. A simdgroup takes ROWS rows of W, a lane VALUES consecutive k of each at a step, whose loads run
// one step ahead. The norm's 1 / rms is a factor of the whole row: it is applied last.
#include "dots.metal"
#include "activation.metal"

// ---- body
  constexpr int V = VALUES;
  constexpr int W = V * BITS / 32;
  constexpr int STEPS = K / V;
  constexpr int STRIDE = STEPS + 1;                     // so that the quads of one step are in different banks
  constexpr bool GATED = ACT == 1 || ACT == 2;
  constexpr int OUTS = GATED ? ROWS / 2 : ROWS;         // outputs of a simdgroup
  constexpr int SPAN = LANE < 16 / int(sizeof(T)) ? LANE : 16 / int(sizeof(T));
  constexpr int LATER = TOP * O / LANE;                 // steps of the other half
  constexpr size_t TABLE = BITS < 16 ? size_t(E) * (GATED ? 2 : 1) * O * (K / GROUP) : 0;
  auto biases = scales + TABLE;
  auto norm_gain = gain_of<BEHIND>(scales, 2 * TABLE, gain);

  threadgroup float4 row[V / 4 * STRIDE];
  threadgroup float squares[SIMDS];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint pair = threadgroup_position_in_grid.y;
  uint token = pair / TOP;
  size_t matrix = size_t(routed[pair]) * (GATED ? 2 * O : O);
  uint out0 = (threadgroup_position_in_grid.x * SIMDS + simd) * OUTS;

  size_t rows[ROWS];
  float acc[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    uint out = metal::min(out0 + r % OUTS, uint(O - 1));               // outputs past the end: computed, not stored
    rows[r] = matrix + (r < OUTS ? out : out + O);
    acc[r] = 0.0f;
  }
  uint next[ROWS][W];
  float next_scale[ROWS];
  float next_zero[ROWS];
  int first = metal::min(int(lane), STEPS - 1);
  load_step<BITS, GROUP, K>(w, scales, biases, rows, first * V, next, next_scale, next_zero);

  float square = 0.0f;
  for (int q = int(thread_index_in_threadgroup); q < K / 4; q += 32 * SIMDS) {
    float v[4];
    load_values<4>(x + size_t(token) * K + 4 * q, v);
    if (NORM) {
      float g[4];
      load_values<4>(norm_gain + 4 * q, g);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        square = metal::fma(v[i], v[i], square);
        v[i] = v[i] * g[i];
      }
    }
    row[q % (V / 4) * STRIDE + q / (V / 4)] = float4(v[0], v[1], v[2], v[3]);
  }
  if (NORM) {
    square = simd_sum(square);
    if (lane == 0) {
      squares[simd] = square;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (int c = int(lane); c < STEPS; c += 32) {
    uint words[ROWS][W];
    float scale[ROWS];
    float zero[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
      for (int i = 0; i < W; i++) {
        words[r][i] = next[r][i];
      }
      scale[r] = next_scale[r];
      zero[r] = next_zero[r];
    }
    if (c + 32 < STEPS) {
      load_step<BITS, GROUP, K>(w, scales, biases, rows, (c + 32) * V, next, next_scale, next_zero);
    }
    float v[V];
#pragma unroll
    for (int q = 0; q < V / 4; q++) {
      float4 part = row[q * STRIDE + c];
      v[4 * q] = part.x;
      v[4 * q + 1] = part.y;
      v[4 * q + 2] = part.z;
      v[4 * q + 3] = part.w;
    }
    add_step<BITS, T>(words, scale, zero, v, 1.0f, acc);
  }

  float inverse = 1.0f;
  if (NORM) {
    float total = 0.0f;
#pragma unroll
    for (int s = 0; s < SIMDS; s++) {
      total += squares[s];
    }
    inverse = metal::precise::rsqrt(total / float(K) + as_type<float>(EPS));
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    acc[r] = simd_sum(acc[r]);
  }
#pragma unroll
  for (int r = 0; r < OUTS; r++) {
    uint o = out0 + r;
    if (lane == uint(r) && o < uint(O)) {
      float v = metal::fma(acc[r], inverse, BIAS ? float(bias[matrix + o]) : 0.0f);
      float up = metal::fma(acc[ROWS - OUTS + r], inverse, BIAS && GATED ? float(bias[matrix + o + O]) : 0.0f);
      uint u = pair % TOP * O + o;
      uint c = u / LANE;
      uint j = u % LANE;
      h[size_t(token) * (TOP * O) + (j / SPAN * LATER + c) * SPAN + j % SPAN] = T(finished<ACT>(v, up, 0.0f));
    }
  }
