// attention_tiles_walk.metal: statements that attention_tiles.metal and self_attention_tiles.metal share, when q is in
// `queries`: part by part its keys, 16 a turn, then the simdgroups joined. FRESH: as attention_walk.metal says.

  const threadgroup T* query = (const threadgroup T*)queries + own * PITCH + column * 4;  // the lane's part of its row
  bool again = false;
  bool odd = false;                                     // of the turns that it has waited for
  do {                                                  // ONCE: each threadgroup has one part
    bool further = !ONCE && part + step <= upto_part;
    uint next_pages[PAGES];
#pragma unroll
    for (int i = 0; i < PAGES; i++) {
      next_pages[i] = 0u;
    }
    if (further) {
      take_pages<SPAN, KEYS, PAGE>(next_pages, table, part + step, batch, simd);
    }
    if (!ONCE && again) {                               // the sums of the part before have been read
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    Tile<float> acc[D / 8];                               // of rows of q column, column + 1
    float high[2];
    float total[2];                                       // of this lane's keys
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      clear(acc[i]);
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
      high[e] = -1e30f;
      total[e] = 0.0f;
    }

#pragma unroll 1
    for (int k0 = 0; k0 < KEYS; k0 += TURN) {
      int reached = mine + k0;                            // position of this turn's first key
      bool inside = k0 + TURN < KEYS;                     // the next turn is of the same part
      int following = inside ? reached + TURN : mine + int(step) * SIZE;
      bool now = any_seen<TURN, NEW, WINDOW>(reached, position);
      bool next = (inside || further) && any_seen<TURN, NEW, WINDOW>(following, position);
      size_t from = base;
      if (next) {
        uint i = uint(k0 + TURN) / PAGE;
        uint page = inside ? held_pages[i < PAGES ? i : 0] : next_pages[0];
        from += size_t(page * PAGE + (simd * KEYS + (inside ? k0 + TURN : 0)) % PAGE) * D;
      }
      int coming = FRESH ? position - following : TURN;  // keys that the pool surely has
      float2 scores[2];
      if (now) {
        const threadgroup T* key[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
          key[h] = head_at<D, NEW, FRESH, T>(key_stage, fresh, key_of(own / 2, own % 2, h), reached, position, 0) + column * 4;
        }
        blocks_wait(key_mark, odd);
        score<D>(scores, key, query, own < uint(TILE), columns + simd * tile_room(2), lane);
        simdgroup_barrier(mem_flags::mem_threadgroup);  // all lanes have the keys
#pragma unroll
        for (int h = 0; h < 2; h++) {
          int at = reached + key_of(own / 2, own % 2, h);
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float dot = scores[h][e] * as_type<float>(SCALE);
            if (CAPPED) {
              dot = as_type<float>(CAP) * metal::precise::tanh(dot / as_type<float>(CAP));
            }
            int self = position + int(metal::min(tile * TILE + column + e, uint(R - 1)) % NEW);
            bool visible = at <= self && (WINDOW == 0 || at > self - WINDOW);
            scores[h][e] = visible ? dot : -INFINITY;
          }
        }
      }
      if (next) {
        bring_heads<D>(key_stage, keys + from, coming, key_mark, lane);
      }
      if (now) {
        const threadgroup T* value[4];
        bool used[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          int i = key_of(column / 2, k % 2, k / 2);
          value[k] = head_at<D, NEW, FRESH, T>(value_stage, fresh, i, reached, position, 1) + own * 8;
          used[k] = (FRESH || reached + i < position + NEW) && (WINDOW == 0 || reached + i > position - WINDOW);
        }
        Tile<T> weights[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float top = metal::max(high[e], column_max(metal::max(scores[0][e], scores[1][e])));
          if constexpr (KEYS > TURN) {                    // in a single turn there is nothing yet to scale
            float shrink = metal::precise::exp(high[e] - top);
            total[e] *= shrink;
#pragma unroll
            for (int i = 0; i < D / 8; i++) {
              acc[i].thread_elements()[e] *= shrink;
            }
          }
          high[e] = top;
#pragma unroll
          for (int h = 0; h < 2; h++) {
            T weight = T(metal::precise::exp(scores[h][e] - top));
            weights[h].thread_elements()[e] = weight;
            total[e] += float(weight);                    // as it is multiplied
          }
        }
        as_right(weights[0]);
        as_right(weights[1]);
        blocks_wait(value_mark, odd);
#pragma unroll
        for (int d = 0; d < D; d += 64) {
          add_values(acc + d / 8, value, used, d, weights);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);  // all lanes have the values
        odd = !odd;
      }
      if (next) {
        bring_heads<D>(value_stage, values + from, coming, value_mark, lane);
      }
    }

#pragma unroll
    for (int e = 0; e < 2; e++) {
      float sum = column_sum(total[e]);
      if (own == 0 && column + e < uint(TILE)) {
        best[simd * TILE + column + e] = high[e];
        sums[simd * TILE + column + e] = sum;
      }
    }
#pragma unroll
    for (uint begin = 0; begin < uint(TILE); begin += ROWS) {
      if (begin > 0) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }
#pragma unroll
      for (int e = 0; e < 2; e++) {
        uint t = column + e - begin;
        if (column + e >= begin && t < uint(ROWS)) {
#pragma unroll
          for (int i = 0; i < D / 8; i += 4) {            // its tiles of one chunk: neighbours
            bool other = column % 4 != 0;                 // half of the rows begin with the other half: in other banks
            float4 four;
#pragma unroll
            for (int j = 0; j < 4; j++) {
              four[j] = other ? acc[(i ^ 4) + j].thread_elements()[e] : acc[i + j].thread_elements()[e];
            }
            ((threadgroup float4*)parts)[(simd * PART_PITCH + t * D + i / 8 * 64 + own * 8) / 4 + (other ? i % 8 ^ 4 : i % 8) / 4] = four;
          }
        }
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);

#include "attention_join.metal"
    }
#pragma unroll
    for (int i = 0; i < PAGES; i++) {
      held_pages[i] = next_pages[i];
    }
    part += step;
    mine += int(step) * SIZE;
    again = true;
  } while (!ONCE && part <= upto_part);
