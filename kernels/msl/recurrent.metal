// recurrent.metal: what the kernels that walk along tokens with a state in registers share.
#include "packed.metal"

// N consecutive floats, STEP (1, 2 or 4) in one store.
template <int STEP, int N>
METAL_FUNC void store_values(device float* to, thread float (&from)[N]) {
#pragma unroll
  for (int i = 0; i < N; i += STEP) {
    if constexpr (STEP == 4) {
      *(device float4*)(to + i) = float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    } else if constexpr (STEP == 2) {
      *(device float2*)(to + i) = float2(from[i], from[i + 1]);
    } else {
      to[i] = from[i];
    }
  }
}

METAL_FUNC constexpr int step_of(int elements) { return elements % 4 == 0 ? 4 : (elements % 2 == 0 ? 2 : 1); }

METAL_FUNC float sigmoid(float x) {
  return 1.0f / (1.0f + metal::precise::exp(-x));
}

// log(1 + e^x). The quotient gives back what 1 + z rounds off a small z: Metal has no log1p.
METAL_FUNC float softplus(float x) {
  float z = metal::precise::exp(-metal::fabs(x));
  float sum = 1.0f + z;
  float high = metal::max(x, 0.0f);
  return sum == 1.0f ? high + z : metal::fma(metal::precise::log(sum), z / (sum - 1.0f), high);
}
