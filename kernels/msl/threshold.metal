// threshold.metal: which logits a truncation keeps, for sample_merge.metal.
//
// A threshold is searched on the order of floats, 10 bits a round, in histograms of the tokens that are still possible:
// of their number for top_k, of their weight exp(v - largest) for top_p. Weights are added as integers of 36 bits, in
// any order, so that the sums are the same every time. A round reads only chunks whose largest logit is in its range,
// and the first one tries tokens near the largest before it tries them all; for top_k, those as large as what the largest
// of so many chunks reach, which are few and suffice. For top_p its bins are equally wide: of a row in which no token stands
// out, most floats in the range are near zero and most tokens are not, so that bins of equally many floats would have
// all threads wait for a few of them.
#include "logits.metal"

constexpr constant int BINS = 1024;
constexpr constant int PARTS = 3;          // of a weight: 12 bits each, for sums of up to 2^19 in 32
constexpr constant float PART = 4096.0f;

// How far below the largest logit a search looks at first, then next; then everywhere.
METAL_FUNC uint search_from(int attempt, float high, uint least) {
  uint from = attempt == 0 ? order_of(high - 8.0f) : (attempt == 1 ? order_of(high - 16.0f) : 0u);
  return metal::max(from, least);
}

constexpr constant float EVEN = 128.0f;    // equally wide bins in a unit: 1024 in the 8 that an attempt looks at

// Which of these bins v is in, counted from the top of the attempt's range. Rounded but once, for a power of two: the same
// wherever it is computed, and never less for a smaller v.
METAL_FUNC uint even_bin(float v, float largest, int attempt) {
  float place = metal::clamp((largest - v) * EVEN - float(attempt * BINS), 0.0f, float(BINS - 1));
  return metal::min(uint(place), uint(BINS - 1));        // of a NaN, too
}

// The order of the smallest value from `low` to `upto` whose bin is at most `bin`; past `upto` where there is none.
METAL_FUNC uint even_edge(uint bin, uint low, uint upto, float largest, int attempt) {
  uint end = upto + 1u;
  while (low < end) {
    uint middle = low + (end - low) / 2u;
    if (even_bin(value_of(middle), largest, attempt) <= bin) {
      end = middle;
    } else {
      low = middle + 1u;
    }
  }
  return low;
}

// One of 32 chunks from `base` on is this lane's: which ones' largest logit reaches `least`.
template <int N, int SIMDS>
METAL_FUNC uint chunks_reaching(uint least, uint base, threadgroup float* highs, uint lane, uint simd) {
  uint chunk = base + lane * SIMDS + simd;
  simd_vote reaching = simd_ballot(chunk < uint(N) && order_of(highs[metal::min(chunk, uint(N - 1))]) >= least);
  return uint(ulong(reaching));
}

// Adds the chunks whose largest logit is in [low, high], by its order, to the histogram of (order - low) >> shift.
template <int N, int SIMDS>
METAL_FUNC void tally_chunks(uint low, uint high, int shift, threadgroup float* highs, threadgroup atomic_uint* bins,
                             uint lane, uint simd) {
  for (uint chunk = 32 * simd + lane; chunk < uint(N); chunk += 32 * SIMDS) {
    uint order = order_of(highs[chunk]);
    if (order >= low && order <= high && highs[chunk] > -INFINITY) {
      atomic_fetch_add_explicit(&bins[(order - low) >> shift], 1u, memory_order_relaxed);
    }
  }
}

// The same of the tokens; even: in equally wide bins.
template <int V, int VALUES, int SIMDS, bool PENALTIES, bool BIAS, bool MASK, typename K>
METAL_FUNC void tally(thread const K& tokens, thread const Shaping& shaping, bool by_count, uint low, uint high,
                      int shift, bool even, int attempt, float largest, threadgroup float* highs, threadgroup atomic_uint* bins, uint lane,
                      uint simd) {
  constexpr int N = (V + 32 * VALUES - 1) / (32 * VALUES);
  for (uint base = 0; base < uint(N); base += 32 * SIMDS) {
    uint active = chunks_reaching<N, SIMDS>(low, base, highs, lane, simd);
    while (active != 0u) {
      uint first = (base + metal::ctz(active) * SIMDS + simd) * 32 * VALUES + lane * VALUES;
      active &= active - 1u;
      float v[VALUES];
      load_logits<V>(tokens.logits, first, v);
      shape_logits<V, VALUES, PENALTIES, BIAS, MASK>(tokens, shaping, first, v);
#pragma unroll
      for (int i = 0; i < VALUES; i++) {
        uint order = order_of(v[i]);
        if (order >= low && order <= high && v[i] > -INFINITY) {
          uint bin = even ? BINS - 1 - even_bin(v[i], largest, attempt) : (order - low) >> shift;
          if (by_count) {
            atomic_fetch_add_explicit(&bins[bin], 1u, memory_order_relaxed);
          } else {
            float rest = weight_of(v[i], largest);
            for (int part = 0; part < PARTS; part++) {
              rest = rest * PART;
              float whole = metal::floor(rest);
              rest = rest - whole;
              if (whole > 0.0f) {
                atomic_fetch_add_explicit(&bins[part * BINS + bin], uint(whole), memory_order_relaxed);
              }
            }
          }
        }
      }
    }
  }
}

// What a bin holds: tokens, or weight.
METAL_FUNC float held(bool by_count, threadgroup atomic_uint* bins, uint bin) {
  float sum = 0.0f;
  float unit = 1.0f;
  for (int part = 0; part < (by_count ? 1 : PARTS); part++) {
    unit = by_count ? 1.0f : unit / PART;
    sum += float(atomic_load_explicit(&bins[part * BINS + bin], memory_order_relaxed)) * unit;
  }
  return sum;
}

// The order of the smallest logit whose larger ones, it among them, reach `target`: in number, or in weight; at least
// `least`, which is also what it is where all of them do not reach it. `reached`: what they come to, else 0. `from`: where to
// look first, 0 where that is not known. ROUGH: of the chunks' largest logits only, in number, and somewhat smaller.
template <int V, int VALUES, int SIMDS, bool PENALTIES, bool BIAS, bool MASK, bool ROUGH, typename K>
METAL_FUNC uint threshold(thread const K& tokens, thread const Shaping& shaping, bool by_count, float target,
                          uint least, uint from, float largest, thread float& reached, threadgroup float* highs,
                          threadgroup atomic_uint* bins, threadgroup float* values, threadgroup uint* numbers,
                          uint lane, uint simd) {
  constexpr int N = (V + 32 * VALUES - 1) / (32 * VALUES);
  constexpr uint THREADS = 32 * SIMDS;
  constexpr uint PER = (BINS + THREADS - 1) / THREADS;   // bins of a thread, neighbours; thread 0 has the topmost
  uint first = (32 * simd + lane) * PER;
  int attempt = from > least ? 1 : 0;
  uint low = from > least ? from : search_from(attempt, largest, least);
  uint upto = order_of(largest);
  float above = 0.0f;                                    // what is larger than upto
  bool searching = true;
  bool even = !by_count;                                 // this round's bins
  reached = 0.0f;
  while (searching) {
    int shift = metal::max(0, 22 - int(metal::clz(upto - low)));
    for (uint bin = 32 * simd + lane; bin < uint(PARTS * BINS); bin += THREADS) {
      atomic_store_explicit(&bins[bin], 0u, memory_order_relaxed);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (ROUGH) {
      tally_chunks<N, SIMDS>(low, upto, shift, highs, bins, lane, simd);
    } else {
      tally<V, VALUES, SIMDS, PENALTIES, BIAS, MASK>(
          tokens, shaping, by_count, low, upto, shift, even, attempt, largest, highs, bins, lane, simd);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float more[PER];
    float sum = 0.0f;
#pragma unroll
    for (uint j = 0; j < PER; j++) {
      more[j] = first + j < uint(BINS) ? held(by_count, bins, BINS - 1 - first - j) : 0.0f;
      sum += more[j];
    }
    float all;
    float before = above + group_before(sum, all, values, lane, simd, SIMDS);
    uint rank = NO_TOKEN;                                // counted from the top: the bin that reaches the target
    float before_rank = 0.0f;
#pragma unroll
    for (uint j = 0; j < PER; j++) {
      if (rank == NO_TOKEN && more[j] > 0.0f && before + more[j] >= target) {
        rank = first + j;
        before_rank = before;
      }
      before += more[j];
    }
    uint hit = group_min(rank, numbers, lane, simd, SIMDS);
    if (hit == NO_TOKEN) {
      // All of these are above the threshold; even those of a bin that reached the target, but is found short by a
      // rounding now that it is looked at closely. On below, until there is nothing.
      above += all;
      upto = low - 1u;
      searching = low > least;
      attempt++;
      even = !by_count && attempt < 2;
      low = search_from(attempt, largest, least);
    } else {
      if (rank == hit) {
        values[0] = before_rank;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      above = values[0];
      reached = above + held(by_count, bins, BINS - 1 - hit);
      if (even) {
        upto = hit > 0u ? even_edge(hit - 1u, low, upto, largest, attempt) - 1u : upto;
        low = even_edge(hit, low, upto, largest, attempt);
        searching = low < upto;
        even = false;
      } else {
        low += (BINS - 1 - hit) << shift;
        upto = metal::min(upto, low + ((1u << shift) - 1u));
        searching = shift > 0 && !ROUGH;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
  }
  return low;
}
