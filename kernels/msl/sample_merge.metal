// sample_merge.metal: the chunks of sample.metal joined, and the draw. A threadgroup takes a row.
//
// stats and what sample.metal reads, as there; top_k, top_p, min_p, position, window [B]; seed [B, 2] -> made: the tokens [B];
// with SCORES behind them their logprobs [B], then the BEST tokens of each row [B, BEST], and these logprobs.
// With PENALTIES the token goes into the history's table, in place.
#include "threshold.metal"

constexpr constant float BELOW_ONE = 0.99999988079071044921875f;

METAL_FUNC uint lowbias32(uint x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

METAL_FUNC float share_of(uint position, uint seed0, uint seed1) {
  return float(lowbias32(lowbias32(position + seed0) ^ seed1) >> 8) * 5.9604644775390625e-8f;
}

// The weight of every chunk's tokens whose order is at least `least`.
template <int V, int VALUES, int SIMDS, bool PENALTIES, bool BIAS, bool MASK, typename K>
METAL_FUNC void weigh(thread const K& tokens, thread const Shaping& shaping, uint least, float largest,
                      threadgroup float* highs, threadgroup float* sums, uint lane, uint simd) {
  constexpr int N = (V + 32 * VALUES - 1) / (32 * VALUES);
  for (uint base = 0; base < uint(N); base += 32 * SIMDS) {
    uint active = chunks_reaching<N, SIMDS>(least, base, highs, lane, simd);
    uint mine = base + lane * SIMDS + simd;
    if (mine < uint(N) && ((active >> lane) & 1u) == 0u) {
      sums[mine] = 0.0f;
    }
    while (active != 0u) {
      uint chunk = base + metal::ctz(active) * SIMDS + simd;
      active &= active - 1u;
      uint first = chunk * 32 * VALUES + lane * VALUES;
      float v[VALUES];
      load_logits<V>(tokens.logits, first, v);
      shape_logits<V, VALUES, PENALTIES, BIAS, MASK>(tokens, shaping, first, v);
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < VALUES; i++) {
        sum += order_of(v[i]) >= least ? weight_of(v[i], largest) : 0.0f;
      }
      sum = simd_sum(sum);
      if (lane == 0) {
        sums[chunk] = sum;
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

METAL_FUNC float sum_of(threadgroup float* sums, uint first, uint count) {
  float sum = 0.0f;
  for (uint i = first; i < first + count; i++) {
    sum += sums[i];
  }
  return sum;
}

// ---- body
  constexpr uint CHUNK = 32 * VALUES;
  constexpr uint N = (V + CHUNK - 1) / CHUNK;
  constexpr uint STATS = SCORES ? 4 : 2;
  constexpr uint THREADS = 32 * SIMDS;
  constexpr uint PER = (N + THREADS - 1) / THREADS;      // chunks of a thread, neighbours

  threadgroup float values[32];
  threadgroup uint numbers[32];
  threadgroup float found[1];
  threadgroup float highs[DRAW ? N : 1];
  threadgroup float sums[DRAW ? N : 1];
  threadgroup atomic_uint bins[TRUNCATE ? PARTS * BINS : 1];

  uint lane = thread_index_in_simdgroup;
  uint simd = simdgroup_index_in_threadgroup;
  uint thread_index = thread_index_in_threadgroup;
  size_t row = threadgroup_position_in_grid.x;
  size_t rows = threadgroups_per_grid.x;
  float heat = float(temperature[row]);
  bool hot = DRAW && heat > 0.0f;
  Shaping shaping = {float(repetition[row]), float(presence[row]), float(frequency[row]), hot ? heat : 1.0f};
  size_t history = row * (2 * V + (PENALTIES ? uint(ring[0]) : 0u));
  Tokens<decltype(logits + 0), decltype(table + 0), decltype(bias + 0), decltype(mask + 0)> tokens = {
      logits + row * V, table + history, bias + row * V, mask + row * ((V + 31) / 32)};
  uint first_chunk = thread_index * PER;
  uint chunks = first_chunk < N ? metal::min(PER, N - first_chunk) : 0u;
  auto own = stats + (row * N + first_chunk) * STATS;
  auto own_tops = stats + rows * N * STATS + (row * N + first_chunk) * (STATS / 2);

  float high = -INFINITY;                                // the row's largest
  uint drawn = NO_TOKEN;
  for (uint j = 0; j < chunks; j++) {
    if (own[j * STATS] > high || drawn == NO_TOKEN) {
      high = own[j * STATS];
      drawn = as_type<uint>(float(own_tops[j * (STATS / 2)]));
    }
  }
  group_best(high, drawn, values, numbers, lane, simd, SIMDS);

  if (DRAW && hot) {
    for (uint j = 0; j < chunks; j++) {
      highs[first_chunk + j] = own[j * STATS];
      sums[first_chunk + j] = own[j * STATS + 1] * weight_of(own[j * STATS], high);
    }
    float total = sum_of(sums, first_chunk, chunks);
    uint least = 0;                                      // order of the smallest logit that may be drawn
    if (TRUNCATE) {
      float mass;                                        // what top_p is a share of
      float reached;
      group_before(total, mass, values, lane, simd, SIMDS);
      int k = int(top_k[row]);
      float p = float(top_p[row]);
      if (k > 0 && k < V) {
        uint from = threshold<V, VALUES, SIMDS, PENALTIES, BIAS, MASK, true>(
            tokens, shaping, true, float(k), least, 0u, high, reached, highs, bins, values, numbers, lane, simd);
        least = threshold<V, VALUES, SIMDS, PENALTIES, BIAS, MASK, false>(
            tokens, shaping, true, float(k), least, from, high, reached, highs, bins, values, numbers, lane, simd);
        if (reached > 0.0f && p < 1.0f) {                // of equal logits at the threshold, as many as make k
          weigh<V, VALUES, SIMDS, PENALTIES, BIAS, MASK>(tokens, shaping, least, high, highs, sums, lane, simd);
          group_before(sum_of(sums, first_chunk, chunks), mass, values, lane, simd, SIMDS);
          float extra = (reached - float(k)) * weight_of(value_of(least), high);
          mass = mass - extra;
        }
      }
      if (p < 1.0f) {
        least = threshold<V, VALUES, SIMDS, PENALTIES, BIAS, MASK, false>(
            tokens, shaping, false, p * mass, least, 0u, high, reached, highs, bins, values, numbers, lane, simd);
      }
      float share = float(min_p[row]);
      if (share > 0.0f) {
        least = metal::max(least, order_of(high + metal::precise::log(share)));
      }
      if (least > 0u) {
        weigh<V, VALUES, SIMDS, PENALTIES, BIAS, MASK>(tokens, shaping, least, high, highs, sums, lane, simd);
        total = sum_of(sums, first_chunk, chunks);
      }
    }

    float everything;
    float start = group_before(total, everything, values, lane, simd, SIMDS);
    float u = share_of(uint(position[row]), uint(seed[2 * row]), uint(seed[2 * row + 1]));
    float mark = metal::min(u, BELOW_ONE) * everything;
    uint mine = NO_TOKEN;
    uint last = NO_TOKEN;                                // counted from the end: the smallest is the last
    float start_mine = 0.0f;
    for (uint j = 0; j < chunks; j++) {
      uint chunk = first_chunk + j;
      float sum = sums[chunk];
      if (sum > 0.0f) {
        last = N - 1 - chunk;
        if (mine == NO_TOKEN && start + sum > mark) {
          mine = chunk;
          start_mine = start;
        }
      }
      start += sum;
    }
    uint chunk = group_min(mine, numbers, lane, simd, SIMDS);
    last = group_min(last, numbers, lane, simd, SIMDS);
    if (mine == chunk && mine != NO_TOKEN) {
      found[0] = start_mine;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simd == 0 && last != NO_TOKEN) {
      // Sums of chunks are rounded otherwise than sums of tokens: past the last token, it is the last one.
      float upto = chunk == NO_TOKEN ? -INFINITY : found[0];
      uint first = (chunk == NO_TOKEN ? N - 1 - last : chunk) * CHUNK + lane * VALUES;
      float v[VALUES];
      load_logits<V>(tokens.logits, first, v);
      shape_logits<V, VALUES, PENALTIES, BIAS, MASK>(tokens, shaping, first, v);
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < VALUES; i++) {
        v[i] = order_of(v[i]) >= least ? weight_of(v[i], high) : 0.0f;
        sum += v[i];
      }
      float before = simd_shuffle_up(simd_prefix_inclusive_sum(sum), ushort(1));
      upto += lane == 0 ? 0.0f : before;
      uint hit = NO_TOKEN;
      uint final_token = 0;
#pragma unroll
      for (int i = 0; i < VALUES; i++) {
        upto += v[i];
        if (v[i] > 0.0f) {
          final_token = first + i;
          hit = hit == NO_TOKEN && upto > mark ? first + i : hit;
        }
      }
      hit = simd_min(hit);
      final_token = simd_max(final_token);
      if (lane == 0) {
        numbers[0] = hit == NO_TOKEN ? final_token : hit;
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (last != NO_TOKEN) {
      drawn = numbers[0];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  // Nothing is larger than a NaN: whatever the model gave, what comes out is a token.
  drawn = metal::min(drawn, uint(V - 1));
  if (PENALTIES) {
    threadgroup_barrier(mem_flags::mem_device);
    if (thread_index == 0) {
      device int* counts = (device int*)table + history;
      uint size = uint(ring[0]);
      uint at = uint(position[row]);
      uint width = uint(window[row]);
      counts[drawn] += 1;
      counts[V + drawn] += 1;
      if (at >= width) {
        counts[V + counts[2 * V + (at - width) % size]] -= 1;
      }
      counts[2 * V + at % size] = int(drawn);
    }
  }
  float logsum = 0.0f;
  if (SCORES) {
    float raw_high = -INFINITY;
    for (uint j = 0; j < chunks; j++) {
      raw_high = metal::max(raw_high, own[j * STATS + STATS - 2]);
    }
    uint any = 0;
    group_best(raw_high, any, values, numbers, lane, simd, SIMDS);
    float part = 0.0f;
    for (uint j = 0; j < chunks; j++) {
      part += own[j * STATS + STATS - 1] * weight_of(own[j * STATS + STATS - 2], raw_high);
    }
    float sum;
    group_before(part, sum, values, lane, simd, SIMDS);
    logsum = raw_high + metal::precise::log(sum);
  }
  if (thread_index == 0) {
    made[row] = drawn;
    if (SCORES) {
      made[rows + row] = as_type<uint>(float(tokens.logits[drawn]) - logsum);
    }
  }
  if (BEST > 0) {
    float head[PER];                                     // of each chunk, the best that has not been taken
    uint head_token[PER];
#pragma unroll
    for (uint j = 0; j < PER; j++) {
      head[j] = j < chunks ? own[j * STATS + STATS - 2] : -INFINITY;
      head_token[j] = j < chunks ? as_type<uint>(float(own_tops[j * (STATS / 2) + STATS / 2 - 1])) : NO_TOKEN;
    }
    for (uint place = 0; place < uint(BEST); place++) {
      float next = -INFINITY;
      uint next_token = NO_TOKEN;
#pragma unroll
      for (uint j = 0; j < PER; j++) {
        if (head[j] > next || next_token == NO_TOKEN) {
          next = head[j];
          next_token = head_token[j];
        }
      }
      group_best(next, next_token, values, numbers, lane, simd, SIMDS);
      if (thread_index == 0) {
        size_t to = 2 * rows + row * BEST + place;
        made[to] = metal::min(next_token, uint(V - 1));
        made[to + rows * BEST] = as_type<uint>(next - logsum);
      }
      uint chunk = next_token / CHUNK;
      if (chunk / PER / 32 == simd) {
        uint first = chunk * CHUNK + lane * VALUES;
        float v[VALUES];
        load_logits<V>(tokens.logits, first, v);
        float rest = -INFINITY;
        uint at = NO_TOKEN;
#pragma unroll
        for (int i = 0; i < VALUES; i++) {
          bool left = v[i] < next || (v[i] == next && first + i > next_token);
          if (left && first + i < uint(V) && (v[i] > rest || at == NO_TOKEN)) {
            rest = v[i];
            at = first + i;
          }
        }
        simd_best(rest, at);
#pragma unroll
        for (uint j = 0; j < PER; j++) {
          if (first_chunk + j == chunk) {
            head[j] = rest;
            head_token[j] = at;
          }
        }
      }
    }
  }
