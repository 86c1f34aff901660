// short_conv.metal: y = act(sum_j weight_j x_{t - TAPS + 1 + j} + bias), each channel by itself. A thread a channel of a
// token, or of a place in the tail.
//
// x [B, NEW, WIDTH], its C channels from FIRST on; or with GATED the columns are [b | c | h], C of each, x is b h, and y is
// multiplied by c. tail [B, TAPS - 1, C]; weight [C, TAPS]; bias [C] where BIASED -> y [B, NEW, C]; tails: like tail,
// after the last token, or with KEEP [B, NEW, TAPS - 1, C], after every one.
#include "activation.metal"

// Input `at` of the tail's and x's in a row, of which the tail has the first TAPS - 1.
template <int TAPS, int C, int WIDTH, int FIRST, bool GATED, typename T>
METAL_FUNC T input_at(const device T* x, const device T* tail, int at, uint c) {
  if (at < TAPS - 1) {
    return tail[at * C + c];
  }
  const device T* row = x + size_t(at - (TAPS - 1)) * WIDTH + FIRST + c;
  return GATED ? T(float(row[0]) * float(row[2 * C])) : row[0];
}

// ---- body
  uint c = threadgroup_position_in_grid.x * THREADS + thread_index_in_threadgroup;
  int i = int(threadgroup_position_in_grid.y);
  size_t b = threadgroup_position_in_grid.z;

  if (c < uint(C)) {
    auto own = x + b * (NEW * WIDTH);
    auto before = tail + b * ((TAPS - 1) * C);
    if (i < NEW) {
      float sum = BIASED ? float(bias[c]) : 0.0f;
#pragma unroll
      for (int j = 0; j < TAPS; j++) {
        T v = input_at<TAPS, C, WIDTH, FIRST, GATED>(own, before, i + j, c);
        sum = metal::fma(float(weight[c * TAPS + j]), float(v), sum);
        if (KEEP && j > 0) {
          tails[((b * NEW + i) * (TAPS - 1) + j - 1) * C + c] = v;
        }
      }
      float v = finished<ACT>(sum, 1.0f, 0.0f);
      y[(b * NEW + i) * C + c] = T(GATED ? v * float(own[i * WIDTH + FIRST + C + c]) : v);
    }
    if (!KEEP && i < TAPS - 1) {
      tails[(b * (TAPS - 1) + i) * C + c] = input_at<TAPS, C, WIDTH, FIRST, GATED>(own, before, NEW + i, c);
    }
  }
