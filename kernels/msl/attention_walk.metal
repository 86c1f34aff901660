// attention_walk.metal: statements that attention.metal and self_attention.metal share: part by part its keys, then the
// simdgroups joined. The next turn's keys are loaded when this turn's are used, its values likewise. FRESH: the new tokens' keys
// and values are in `fresh` [NEW, 2, D] of the threadgroup; the pool's slots of theirs are being written, and not read.

  bool again = false;
  bool further;                                         // there is another part, before this one
  do {                                                  // ONCE: each threadgroup has one part
    further = !ONCE && part >= from_part + step;
    uint next_pages[PAGES];
#pragma unroll
    for (int i = 0; i < PAGES; i++) {
      next_pages[i] = 0u;
    }
    if (further) {
      take_pages<SPAN, KEYS, PAGE>(next_pages, table, part - step, batch, simd);
    }
    if (!ONCE && again) {                               // the sums of the part before have been read
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    float acc[TILE][E];
    float high[TILE];
    float total[TILE];
#pragma unroll
    for (int t = 0; t < TILE; t++) {
      high[t] = -1e30f;
      total[t] = 0.0f;
#pragma unroll
      for (int e = 0; e < E; e++) {
        acc[t][e] = 0.0f;
      }
    }

#pragma unroll 1
    for (int k0 = 0; k0 < KEYS; k0 += CHUNK) {
      int reached = mine + k0;                            // position of this turn's first key
      bool inside = k0 + CHUNK < KEYS;                    // the next turn is of the same part
      int following = inside ? reached + CHUNK : mine - int(step) * SIZE;
      bool now = any_seen<CHUNK, NEW, WINDOW>(reached, position);
      bool next = (inside || further) && any_seen<CHUNK, NEW, WINDOW>(following, position);
      size_t from = base;
      if (next) {
        uint i = uint(k0 + CHUNK) / PAGE;
        uint page = inside ? held_pages[i < PAGES ? i : 0] : next_pages[0];
        from += size_t(page * PAGE + (simd * KEYS + (inside ? k0 + CHUNK : 0)) % PAGE) * D;
      }
      int coming = FRESH ? position - following - int(own) : CHUNK;  // keys that the pool surely has
      bool renewed = FRESH && reached + CHUNK > position;
      float scores[TILE][BATCH];
      if (now) {
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
          int at = reached + k * TOGETHER + int(own);
          if (renewed && at >= position && at < position + NEW) {
            take_fresh<D, W, LANES * W, T>(fresh, 2 * (at - position), offset, key[k]);
          }
#pragma unroll
          for (int t = 0; t < TILE; t++) {
            float dot = 0.0f;
#pragma unroll
            for (int e = 0; e < E; e++) {
              dot = metal::fma(query[t][e], held<T>(key[k], e), dot);
            }
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
      }
      if (next) {
        load_batch<W, LANES * W, D, TOGETHER>(keys + from, coming, key);
      }
      if (now) {
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
          int at = reached + k * TOGETHER + int(own);
          if (renewed && at >= position && at < position + NEW) {
            take_fresh<D, W, LANES * W, T>(fresh, 2 * (at - position) + 1, offset, value[k]);
          }
          // What a slot holds that no token sees must not matter: it may be no number.
          if (at >= position + NEW || (WINDOW > 0 && at <= position - WINDOW)) {
#pragma unroll
            for (int i = 0; i < WORDS; i++) {
              value[k][i] = 0u;
            }
          }
        }
#pragma unroll
        for (int t = 0; t < TILE; t++) {
          float top = high[t];
#pragma unroll
          for (int k = 0; k < BATCH; k++) {
            top = metal::max(top, scores[t][k]);
          }
          if constexpr (KEYS > CHUNK) {                   // in a single turn there is nothing yet to scale
            float shrink = metal::precise::exp(high[t] - top);
            total[t] *= shrink;
#pragma unroll
            for (int e = 0; e < E; e++) {
              acc[t][e] *= shrink;
            }
          }
          high[t] = top;
#pragma unroll
          for (int k = 0; k < BATCH; k++) {
            float weight = metal::precise::exp(scores[t][k] - top);
            total[t] += weight;
#pragma unroll
            for (int e = 0; e < E; e++) {
              acc[t][e] = metal::fma(weight, held<T>(value[k], e), acc[t][e]);
            }
          }
        }
      }
      if (next) {
        load_batch<W, LANES * W, D, TOGETHER>(values + from, coming, value);
      }
    }

    // The keys that a simdgroup took at once are joined, then the simdgroups.
#pragma unroll
    for (int t = 0; t < TILE; t++) {
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
          parts[(simd * TILE + t) * D + e / W * (LANES * W) + offset + e % W] = acc[t][e];
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint begin = 0;

#include "attention_join.metal"
#pragma unroll
    for (int i = 0; i < PAGES; i++) {
      held_pages[i] = next_pages[i];
    }
    part -= step;
    mine -= int(step) * SIZE;
    again = true;
  } while (further);
