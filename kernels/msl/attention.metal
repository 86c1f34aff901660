// attention.metal: new tokens over one page of their sequence's keys and values; attention_merge.metal joins the pages.
//
// q [B, KV * GROUP, NEW, D]; keys, values [KV, slots, D]; table [B, N] pages of each row; bounds [B, 2] positions: of the
// table's first slot, of the first new token; size [2] slots of the pool, N
// -> partial [B, KV, N, R, D], stats [B, KV, N, R, 2] (largest score, sum of weights), R = GROUP * NEW.
//
// A threadgroup takes one page and TILE rows; a simdgroup a part of the page's keys; a lane D / 32 elements of a head.
// A row's numbers do not depend on how many rows, pages or slots there are. A page that no row sees becomes zeros.
#include "packed.metal"

// ---- body
  constexpr int E = D / 32;
  constexpr int STEP = E % 4 == 0 ? 4 : (E % 2 == 0 ? 2 : 1);
  constexpr int R = GROUP * NEW;
  constexpr int KEYS = PAGE / SIMDS;                    // of a simdgroup
  constexpr int TILES = (R + TILE - 1) / TILE;

  threadgroup float best[SIMDS * TILE];
  threadgroup float sums[SIMDS * TILE];
  threadgroup float parts[SIMDS * TILE * D];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint page = threadgroup_position_in_grid.x;
  uint head = threadgroup_position_in_grid.y / TILES;
  uint tile = threadgroup_position_in_grid.y % TILES;
  uint row = threadgroup_position_in_grid.z;
  uint slots = uint(size[0]);
  uint pages = uint(size[1]);
  int first = bounds[2 * row] + int(page) * PAGE;       // position of the page's first slot
  int position = bounds[2 * row + 1];
  bool seen = first < position + NEW && (WINDOW == 0 || first + PAGE > position - WINDOW + 1);

  float query[TILE][E];
  float acc[TILE][E];
  float high[TILE];
  float total[TILE];
#pragma unroll
  for (int t = 0; t < TILE; t++) {
    uint r = metal::min(tile * TILE + t, uint(R - 1));  // rows past the end: computed, not stored
    load_values<STEP>(q + ((size_t(row) * KV + head) * R + r) * D + lane * E, query[t]);
    high[t] = -1e30f;
    total[t] = 0.0f;
#pragma unroll
    for (int e = 0; e < E; e++) {
      query[t][e] *= as_type<float>(SCALE);
      acc[t][e] = 0.0f;
    }
  }

  if (seen) {
    size_t base = (size_t(head) * slots + size_t(table[row * pages + page]) * PAGE) * D + lane * E;
    for (int k0 = int(simd) * KEYS; k0 < (int(simd) + 1) * KEYS; k0 += BATCH) {
      float scores[TILE][BATCH];
      float key[BATCH][E];
#pragma unroll
      for (int k = 0; k < BATCH; k++) {
        load_values<STEP>(keys + base + size_t(k0 + k) * D, key[k]);
      }
#pragma unroll
      for (int k = 0; k < BATCH; k++) {
        int at = first + k0 + k;
#pragma unroll
        for (int t = 0; t < TILE; t++) {
          float dot = 0.0f;
#pragma unroll
          for (int e = 0; e < E; e++) {
            dot = metal::fma(query[t][e], key[k][e], dot);
          }
          dot = simd_sum(dot);
          if (CAPPED) {
            dot = as_type<float>(CAP) * metal::precise::tanh(dot / as_type<float>(CAP));
          }
          int own = position + int(metal::min(tile * TILE + t, uint(R - 1)) % NEW);
          bool visible = at <= own && (WINDOW == 0 || at > own - WINDOW);
          scores[t][k] = visible ? dot : -INFINITY;
        }
      }
#pragma unroll
      for (int k = 0; k < BATCH; k++) {
        load_values<STEP>(values + base + size_t(k0 + k) * D, key[k]);
      }
#pragma unroll
      for (int t = 0; t < TILE; t++) {
        float top = high[t];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
          top = metal::max(top, scores[t][k]);
        }
        float shrink = metal::precise::exp(high[t] - top);
        high[t] = top;
        total[t] *= shrink;
#pragma unroll
        for (int e = 0; e < E; e++) {
          acc[t][e] *= shrink;
        }
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
          // What an unwritten slot holds must not matter, not even if it is no number.
          bool hidden = scores[t][k] == -INFINITY;
          float weight = hidden ? 0.0f : metal::precise::exp(scores[t][k] - top);
          total[t] += weight;
#pragma unroll
          for (int e = 0; e < E; e++) {
            acc[t][e] = metal::fma(weight, hidden ? 0.0f : key[k][e], acc[t][e]);
          }
        }
      }
    }
  }

#pragma unroll
  for (int t = 0; t < TILE; t++) {
    if (lane == 0) {
      best[simd * TILE + t] = high[t];
      sums[simd * TILE + t] = total[t];
    }
#pragma unroll
    for (int e = 0; e < E; e++) {
      parts[(simd * TILE + t) * D + lane * E + e] = acc[t][e];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (uint i = thread_index_in_threadgroup; i < uint(TILE * D); i += SIMDS * 32) {
    uint t = i / D;
    uint d = i % D;
    uint r = tile * TILE + t;
    if (r < uint(R)) {
      float top = best[t];
      for (int s = 1; s < SIMDS; s++) {
        top = metal::max(top, best[s * TILE + t]);
      }
      float sum = 0.0f;
      float value = 0.0f;
      for (int s = 0; s < SIMDS; s++) {
        float weight = metal::precise::exp(best[s * TILE + t] - top);
        sum = metal::fma(weight, sums[s * TILE + t], sum);
        value = metal::fma(weight, parts[(s * TILE + t) * D + d], value);
      }
      size_t to = ((size_t(row) * KV + head) * pages + page) * R + r;
      partial[to * D + d] = value;
      if (d == 0) {
        stats[2 * to] = top;
        stats[2 * to + 1] = sum;
      }
    }
  }
