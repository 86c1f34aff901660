// experts_down.metal: the other half of experts.metal: y = sum_k weight_k (W_{i_k} h_k + bias_{i_k}) + residual
// + sigmoid(gate) beside, in float32.
//
// h [N, TOP * K] in the order that experts.metal gives it; routed [2, N, TOP]; w [E, O, K] packed or plain;
// scales and biases [2, E, O, K / GROUP]; bias [E, O]; residual [N, O]; beside [N, O]; gate: column
// GATE_FIRST of [N, GATE_WIDTH] -> y [N, O].
//
// The TOP experts of a token are one long vector, in steps of VALUES: SPLIT simdgroups share its steps for ROWS outputs.
#include "dots.metal"

// ---- body
  constexpr int V = VALUES;
  constexpr int W = V * BITS / 32;
  constexpr int STEPS = TOP * K / V;
  constexpr int SPAN = V < 16 / int(sizeof(T)) ? V : 16 / int(sizeof(T));
  constexpr int SETS = SIMDS / SPLIT;                   // sets of rows in a threadgroup
  constexpr int OUTS = ROWS * SETS;
  constexpr int WIDE = 8 * int(sizeof(T));              // bits of an element of h
  auto biases = scales + (BITS < 16 ? size_t(E) * O * (K / GROUP) : 0);

  threadgroup float sums[SIMDS * ROWS];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint group = threadgroup_position_in_grid.x;
  uint token = threadgroup_position_in_grid.y;
  uint pairs = threadgroups_per_grid.y * TOP;           // behind the indices of which are the weights
  uint out0 = (group * SETS + simd / SPLIT) * ROWS;

  float acc[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    acc[r] = 0.0f;
  }
  for (int c = int(simd % SPLIT * 32 + lane); c < STEPS; c += SPLIT * 32) {
    int k = c * V / K;
    size_t matrix = size_t(routed[token * TOP + k]) * O;
    size_t rows[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      rows[r] = matrix + metal::min(out0 + r, uint(O - 1));            // outputs past the end: computed, not stored
    }
    uint words[ROWS][W];
    float scale[ROWS];
    float zero[ROWS];
    load_step<BITS, GROUP, K>(w, scales, biases, rows, c * V - k * K, words, scale, zero);
    float v[V];
#pragma unroll
    for (int s = 0; s < V / SPAN; s++) {
      uint part[SPAN * WIDE / 32];
      load_words((const device uint*)(h + size_t(token) * (TOP * K) + (s * STEPS + c) * SPAN), part);
#pragma unroll
      for (int i = 0; i < SPAN; i++) {
        v[s * SPAN + i] = value_of<WIDE, T>(part, i);
      }
    }
    add_step<BITS, T>(words, scale, zero, v, as_type<float>(uint(routed[pairs + token * TOP + k])), acc);
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float sum = simd_sum(acc[r]);
    if (lane == 0) {
      sums[simd * ROWS + r] = sum;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (uint i = thread_index_in_threadgroup; i < uint(OUTS); i += SIMDS * 32) {
    uint o = group * OUTS + i;
    if (o < uint(O)) {
      size_t to = size_t(token) * O + o;
      float v = RESIDUAL ? float(residual[to]) : 0.0f;
      if (BESIDE) {
        v = metal::fma(1.0f / (1.0f + metal::precise::exp(-float(gate[token * GATE_WIDTH + GATE_FIRST]))), float(beside[to]), v);
      }
      for (int k = 0; BIAS && k < TOP; k++) {
        float weight = as_type<float>(uint(routed[pairs + token * TOP + k]));
        v = metal::fma(weight, float(bias[size_t(routed[token * TOP + k]) * O + o]), v);
      }
      float sum = 0.0f;
      for (uint s = 0; s < uint(SPLIT); s++) {
        sum += sums[(i / ROWS * SPLIT + s) * ROWS + i % ROWS];
      }
      y[to] = T(v + sum);
    }
  }
