// packed_attention.metal: attention.metal over heads that are packed as kernels/coding.py says, read as they lie.
//
// q [B, KV * GROUP, NEW, D]; keys, values [KV, slots, D BITS / 32] words; key_grids, value_grids [KV, slots, 2 D / GROUPED];
// where, after, since, room -> o: as there. With TURNED the packed heads are: queries are turned here, and each part's values
// are turned back before they are joined.
//
// Threads share the work as there, but for that each part has a threadgroup; a lane has chunks of CHUNK neighbours, each within
// one group of a head, so that
//     q.k = sum over chunks of scale (q.codes) + middle (sum of q)
// with codes counted from the middle of their group's range, and the values' middles are summed apart.
#include "attention_chunks.metal"
#include "attention_parts.metal"
#include "coding.metal"
#include "fence.metal"

template <int BITS> METAL_FUNC constexpr float middle_code() { return 0.5f * float((1 << BITS) - 1); }

// Code i of a word, less the middle one: bits of a float's mantissa are set, without a conversion.
template <int BITS>
METAL_FUNC float code_of(uint word, int i) {
  constexpr int place = 23 - BITS;
  constexpr uint mask = ((1u << BITS) - 1u) << place;
  constexpr uint base = uint(127 + BITS) << 23;         // 2^BITS
  int shift = place - BITS * i;
  return as_type<float>(masked_or(shift < 0 ? word >> -shift : word << shift, mask, base)) - (float(1 << BITS) + middle_code<BITS>());
}

// A lane's chunks of a head, STRIDE elements apart: words, and of the group that each is in, scale and bias.
template <int BITS, int SIZE, int CHUNK, int STRIDE, int N, int W, typename T>
METAL_FUNC void load_packed(const device uint* words, const device T* grids, uint offset, thread uint (&to)[N][W],
                            thread vec<T, 2> (&grid)[N]) {
#pragma unroll
  for (int c = 0; c < N; c++) {
    uint element = offset + c * STRIDE;
    load_words(words + element * BITS / 32, to[c]);
    grid[c] = *(const device vec<T, 2>*)(grids + element / SIZE * 2);
  }
}

// ---- body
#include "attention_place.metal"

  constexpr int E = D / LANES;                          // elements of a lane
  constexpr int N = E / CHUNK;
  constexpr int W = CHUNK * BITS / 32;                  // words of a chunk
  constexpr int PER = 32 / BITS;                        // codes in a word
  constexpr int STRIDE = LANES * CHUNK;
  constexpr int WORDS = D * BITS / 32;
  constexpr int GRIDS = 2 * D / GROUPED;
  constexpr int TOGETHER = 32 / LANES;                  // keys of a simdgroup at once
  constexpr int KEYS = SIZE / SIMDS;                    // of a simdgroup
  constexpr int PAGES = KEYS > PAGE ? KEYS / PAGE : 1;  // that these are in

  threadgroup float queries[TILE * D];
  threadgroup float parts[SIMDS * TILE * D];
  uint held_pages[PAGES];
  take_pages<SPAN, KEYS, PAGE>(held_pages, table, part, batch, simd);

#include "attention_part.metal"

  int mine = first + int(simd) * KEYS;                  // position of the simdgroup's first key
  uint own = lane / LANES;                              // which of the keys
  uint offset = lane % LANES * CHUNK;                   // of the lane's first chunk

  for (int t = int(simd); t < TILE; t += SIMDS) {
    uint r = metal::min(tile * TILE + t, uint(R - 1));  // rows past the end: computed, not stored
    float v[D / 32];
#pragma unroll
    for (int e = 0; e < D / 32; e++) {
      v[e] = float(q[((size_t(row) * KV + head) * R + r) * D + lane + 32 * e]) * as_type<float>(SCALE);
    }
    if (TURNED) {
      turn<D>(v, lane);
    }
#pragma unroll
    for (int e = 0; e < D / 32; e++) {
      queries[t * D + lane + 32 * e] = v[e];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  float query[TILE][E];
  float whole[TILE][N];                                 // sums of the queries' chunks
  float acc[TILE][E];
  float low[TILE][N];                                   // sums of weighted middles
  float high[TILE];
  float total[TILE];
#pragma unroll
  for (int t = 0; t < TILE; t++) {
    high[t] = -1e30f;
    total[t] = 0.0f;
#pragma unroll
    for (int c = 0; c < N; c++) {
      whole[t][c] = 0.0f;
      low[t][c] = 0.0f;
#pragma unroll
      for (int j = 0; j < CHUNK; j++) {
        float element = queries[t * D + offset + c * STRIDE + j];
        query[t][c * CHUNK + j] = element;
        whole[t][c] += element;
        acc[t][c * CHUNK + j] = 0.0f;
      }
    }
  }

#pragma unroll 1
  for (int k0 = 0; k0 < KEYS; k0 += TOGETHER * BATCH) {
    int reached = mine + k0;
    if (!any_seen<TOGETHER * BATCH, NEW, WINDOW>(reached, position)) {
      continue;
    }
    // A simdgroup's keys of one turn are in one page, which the table has, since some of them are seen.
    size_t slot = size_t(head) * slots + size_t(held_pages[k0 / PAGE]) * PAGE + (simd * KEYS + k0) % PAGE + own;
    uint key[BATCH][N][W];
    uint value[BATCH][N][W];
    vec<T, 2> key_grid[BATCH][N];
    vec<T, 2> value_grid[BATCH][N];
#pragma unroll
    for (int k = 0; k < BATCH; k++) {                   // all loads first: they take longer than all that follows
      size_t at = slot + k * TOGETHER;
      load_packed<BITS, GROUPED, CHUNK, STRIDE>(keys + at * WORDS, key_grids + at * GRIDS, offset, key[k], key_grid[k]);
      load_packed<BITS, GROUPED, CHUNK, STRIDE>(values + at * WORDS, value_grids + at * GRIDS, offset, value[k], value_grid[k]);
    }
    float scores[TILE][BATCH];
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
      int at = reached + k * TOGETHER + int(own);
      float dots[TILE];
#pragma unroll
      for (int t = 0; t < TILE; t++) {
        dots[t] = 0.0f;
      }
#pragma unroll
      for (int c = 0; c < N; c++) {
        float scale = float(key_grid[k][c].x);
        float middle = metal::fma(scale, middle_code<BITS>(), float(key_grid[k][c].y));
        float codes[CHUNK];
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
          codes[j] = code_of<BITS>(key[k][c][j / PER], j % PER);
        }
#pragma unroll
        for (int t = 0; t < TILE; t++) {
          float dot = 0.0f;
#pragma unroll
          for (int j = 0; j < CHUNK; j++) {
            dot = metal::fma(query[t][c * CHUNK + j], codes[j], dot);
          }
          dots[t] = metal::fma(scale, dot, metal::fma(middle, whole[t][c], dots[t]));
        }
      }
#pragma unroll
      for (int t = 0; t < TILE; t++) {
        float dot = dots[t];
#pragma unroll
        for (int d = 1; d < LANES; d *= 2) {
          dot += simd_shuffle_xor(dot, ushort(d));
        }
        if (CAPPED) {
          dot = as_type<float>(CAP) * metal::precise::tanh(dot / as_type<float>(CAP));
        }
        int self = position + int(metal::min(tile * TILE + t, uint(R - 1)) % NEW);
        bool visible = at <= self && (WINDOW == 0 || at > self - WINDOW);
        scores[t][k] = visible ? dot : -INFINITY;
      }
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
      for (int c = 0; c < N; c++) {
        low[t][c] *= shrink;
      }
#pragma unroll
      for (int e = 0; e < E; e++) {
        acc[t][e] *= shrink;
      }
    }
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
      float weight[TILE];
#pragma unroll
      for (int t = 0; t < TILE; t++) {
        weight[t] = metal::precise::exp(scores[t][k] - high[t]);
        total[t] += weight[t];
      }
#pragma unroll
      for (int c = 0; c < N; c++) {
        float scale = float(value_grid[k][c].x);
        float middle = metal::fma(scale, middle_code<BITS>(), float(value_grid[k][c].y));
        float codes[CHUNK];
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
          codes[j] = code_of<BITS>(value[k][c][j / PER], j % PER);
        }
#pragma unroll
        for (int t = 0; t < TILE; t++) {
          // What an unwritten slot holds must not matter, not even if its grids are no numbers.
          bool hidden = scores[t][k] == -INFINITY;
          float scaled = hidden ? 0.0f : weight[t] * scale;
          low[t][c] = metal::fma(weight[t], hidden ? 0.0f : middle, low[t][c]);
#pragma unroll
          for (int j = 0; j < CHUNK; j++) {
            acc[t][c * CHUNK + j] = metal::fma(scaled, codes[j], acc[t][c * CHUNK + j]);
          }
        }
      }
    }
  }

  // The keys that a simdgroup took at once are joined, then the simdgroups.
#pragma unroll
  for (int t = 0; t < TILE; t++) {
#pragma unroll
    for (int e = 0; e < E; e++) {
      acc[t][e] += low[t][e / CHUNK];
    }
#pragma unroll
    for (int d = LANES; d < 32; d *= 2) {
      float other = simd_shuffle_xor(high[t], ushort(d));
      float top = metal::max(high[t], other);
      float mine = metal::precise::exp(high[t] - top);
      float theirs = metal::precise::exp(other - top);
      total[t] = metal::fma(total[t], mine, simd_shuffle_xor(total[t], ushort(d)) * theirs);
#pragma unroll
      for (int e = 0; e < E; e++) {
        acc[t][e] = metal::fma(acc[t][e], mine, simd_shuffle_xor(acc[t][e], ushort(d)) * theirs);
      }
      high[t] = top;
    }
    if (lane == 0) {
      best[simd * TILE + t] = high[t];
      sums[simd * TILE + t] = total[t];
    }
    if (own == 0) {
#pragma unroll
      for (int e = 0; e < E; e++) {
        parts[(simd * TILE + t) * D + e / CHUNK * STRIDE + offset + e % CHUNK] = acc[t][e];
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (uint t = simd; t < uint(TILE) && tile * TILE + t < uint(R); t += SIMDS) {
    uint r = tile * TILE + t;
    float top = best[t];
    for (int s = 1; s < SIMDS; s++) {
      top = metal::max(top, best[s * TILE + t]);
    }
    float sum = 0.0f;
    float v[D / 32];
#pragma unroll
    for (int e = 0; e < D / 32; e++) {
      v[e] = 0.0f;
    }
    for (int s = 0; s < SIMDS; s++) {
      float weight = metal::precise::exp(best[s * TILE + t] - top);
      sum = metal::fma(weight, sums[s * TILE + t], sum);
#pragma unroll
      for (int e = 0; e < D / 32; e++) {
        v[e] = metal::fma(weight, parts[(s * TILE + t) * D + lane + 32 * e], v[e]);
      }
    }
    if (TURNED) {
      turn_back<D>(v, lane);
    }
    if (WHOLE) {
      size_t to = ((size_t(row) * NEW + r % NEW) * (KV * GROUP) + head * GROUP + r / NEW) * D + lane;
#pragma unroll
      for (int e = 0; e < D / 32; e++) {
        o[to + 32 * e] = OUT(v[e] / sum);
      }
    } else {
      size_t to = (above + part) * R + r;
#pragma unroll
      for (int e = 0; e < D / 32; e++) {
        partial[to * D + lane + 32 * e] = v[e];
      }
      if (lane == 0) {
        stats[2 * to] = top;
        stats[2 * to + 1] = sum;
      }
    }
  }

#include "attention_last.metal"
