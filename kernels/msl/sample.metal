// sample.metal: the first pass of the sampler. A simdgroup takes a chunk of 32 * VALUES tokens of a row and keeps the
// largest logit, its token, and the sum of exponentials below it; sample_merge.metal goes on from there.
//
// logits [B, V]; temperature, repetition, presence, frequency [B]; table [B (2 V + W)] of the history,
// ring [1] W; bias [B, V]; mask [B, ceil(V / 32)] -> stats [B, N, 2] (largest, sum) of N chunks, and behind them [B, N] their
// tokens; where SCORES twice as many: then the same of the logits as the model gave them. Where not DRAW the sum is 0.
#include "logits.metal"

// ---- body
  constexpr uint CHUNK = 32 * VALUES;
  constexpr uint N = (V + CHUNK - 1) / CHUNK;
  constexpr uint STATS = SCORES ? 4 : 2;

  uint lane = thread_index_in_simdgroup;
  uint chunk = threadgroup_position_in_grid.x * SIMDS + simdgroup_index_in_threadgroup;
  size_t row = threadgroup_position_in_grid.y;

  if (chunk < N) {
    uint first = chunk * CHUNK + lane * VALUES;
    float heat = float(temperature[row]);
    bool hot = DRAW && heat > 0.0f;
    Shaping shaping = {float(repetition[row]), float(presence[row]), float(frequency[row]), hot ? heat : 1.0f};
    size_t history = row * (2 * V + (PENALTIES ? uint(ring[0]) : 0u));
    Tokens<decltype(logits + 0), decltype(table + 0), decltype(bias + 0), decltype(mask + 0)> tokens = {
        logits + row * V, table + history, bias + row * V, mask + row * ((V + 31) / 32)};
    float v[VALUES];
    load_logits<V>(tokens.logits, first, v);
#pragma unroll
    for (int raw = SCORES ? 1 : 0; raw >= 0; raw--) {
      if (raw == 0) {
        shape_logits<V, VALUES, PENALTIES, BIAS, MASK>(tokens, shaping, first, v);
      }
      float high = -INFINITY;
      uint at = first;
#pragma unroll
      for (int i = 0; i < VALUES; i++) {
        if (v[i] > high) {
          high = v[i];
          at = first + i;
        }
      }
      simd_best(high, at);
      float sum = 0.0f;
      if (DRAW || raw == 1) {
#pragma unroll
        for (int i = 0; i < VALUES; i++) {
          sum += weight_of(v[i], high);
        }
        sum = simd_sum(sum);
      }
      if (lane == 0) {
        size_t to = (row * N + chunk) * STATS + 2 * raw;
        stats[to] = high;
        stats[to + 1] = sum;
        ((device uint*)stats)[size_t(threadgroups_per_grid.y) * N * STATS + to / 2] = at;
      }
    }
  }
