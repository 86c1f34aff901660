// attention_tiles_walk.metal: statements that attention_tiles.metal and self_attention_tiles.metal share, when q is in
// `queries`: part by part its keys, a round at a time, then the simdgroups joined. What comes next is copied when all have taken
// what is there. FRESH: as attention_walk.metal says.

  const threadgroup T* query = (const threadgroup T*)queries + own * PITCH + column * 4;  // the lane's part of its row
  uint region = simd / PER;
  const threadgroup uint4* key_stage = staged + 2 * region * STAGE;
  threadgroup ulong* mark = marks + 2 * region;
  bool again = false;
  bool odd = false;                                     // of the rounds that it has waited for
  bool further;                                         // there is another part, before this one
  do {                                                  // ONCE: each threadgroup has one part
    further = !ONCE && part >= from_part + step;
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
    for (int k0 = 0; k0 < SIZE; k0 += ROUND) {
      int reached = first + k0 + int(region) * REGION;    // position of the region's first key
      bool inside = k0 + ROUND < SIZE;                    // the next round is of the same part
      if (!ONCE || SIZE > ROUND) {
        take_round<SPAN, REGION, REGIONS, COPIERS, PAGE>(
            pages, table, inside || !further ? part : part - step, inside ? k0 + ROUND : 0, batch, copier);
      }
      blocks_meet();
      if (any_seen<REGION, NEW, WINDOW>(reached, position)) {
        float2 scores[2];
        int block = block_of(own / 2, own % 2);
        const threadgroup T* key[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
          int i = key_of<REGION>(block, simd % PER, int(own % 2), h);
          key[h] = head_at<D, NEW, FRESH, T>(key_stage, fresh, block, i, reached, position, 0) + column * 4;
        }
        blocks_wait(mark, odd);
        score<D>(scores, key, query, own < uint(TILE), columns + simd * tile_room(2), lane);
#pragma unroll
        for (int h = 0; h < 2; h++) {
          int at = reached + key_of<REGION>(block, simd % PER, int(own % 2), h);
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
        const threadgroup T* value[4];
        bool used[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          block = block_of(column / 2, k % 2);
          int i = key_of<REGION>(block, simd % PER, k % 2, k / 2);
          value[k] = head_at<D, NEW, FRESH, T>(key_stage + STAGE, fresh, block, i, reached, position, 1) + own * 8;
          used[k] = (FRESH || reached + i < position + NEW) && (WINDOW == 0 || reached + i > position - WINDOW);
        }
        Tile<T> weights[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float top = metal::max(high[e], column_max(metal::max(scores[0][e], scores[1][e])));
          if constexpr (SIZE > ROUND) {                   // in a single round there is nothing yet to scale
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
        blocks_wait(mark + 1, odd);
#pragma unroll
        for (int d = 0; d < D; d += 64) {
          add_values(acc + d / 8, value, used, d, weights);
        }
        odd = !odd;
      }
      if (inside) {
        threadgroup_barrier(mem_flags::mem_threadgroup);  // all have the keys and values
        if (copying) {
          bring_round<D, REGION, REGIONS, COPIERS, PAGE, NEW, WINDOW, FRESH>(
              staged, marks, keys + base, values + base, pages, first, k0 + ROUND, position, copier, lane);
        }
      }
    }

    if (!ONCE && again) {                               // the sums of the part before have been read
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float sum = column_sum(total[e]);
      if (own == 0 && column + e < uint(TILE)) {
        best[simd * TILE + column + e] = high[e];
        sums[simd * TILE + column + e] = sum;
      }
    }
#pragma unroll 1
    for (uint begin = 0; begin < uint(TILE); begin += ROWS) {
      if (begin > 0) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }
#pragma unroll
      for (int e = 0; e < 2; e++) {
        uint t = column + e - begin;
        if (column + e >= begin && t < uint(ROWS)) {
          threadgroup float4* to = (threadgroup float4*)(parts + (simd * ROWS + t) * ROW_PITCH + own * 8);
#pragma unroll
          for (int i = 0; i < D / 8; i += 4) {            // its tiles of one chunk: neighbours
            float4 four;
#pragma unroll
            for (int j = 0; j < 4; j++) {
              four[j] = acc[i + j].thread_elements()[e];
            }
            to[i / 8 * 16 + i % 8 / 4] = four;
          }
        }
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (begin == 0 && further && copying) {
        bring_round<D, REGION, REGIONS, COPIERS, PAGE, NEW, WINDOW, FRESH>(
            staged, marks, keys + base, values + base, pages, first - int(step) * SIZE, 0, position, copier, lane);
      }

#include "attention_join.metal"
    }
    part -= step;
    first -= int(step) * SIZE;
    again = true;
  } while (further);
