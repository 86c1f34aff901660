// coding.metal: heads turned and packed as kernels/coding.py says, each by one simdgroup. A lane has the elements lane,
// lane + 32, ...

// Whether element i changes its sign.
METAL_FUNC bool changes_sign(uint i) {
  i *= 0x9E3779B1u;
  i = (i ^ (i >> 15)) * 0x85EBCA77u;
  return ((i ^ (i >> 13)) & 1u) != 0u;
}

template <int D>
METAL_FUNC void change_signs(thread float (&v)[D / 32], uint lane) {
#pragma unroll
  for (int e = 0; e < D / 32; e++) {
    v[e] = changes_sign(lane + 32 * e) ? -v[e] : v[e];
  }
}

// v = H v / sqrt(P) on every P neighbours, P the largest power of two that divides D: sums and differences of elements
// that lie 1, 2, 4, ... apart.
template <int D>
METAL_FUNC void hadamard(thread float (&v)[D / 32], uint lane) {
  constexpr int P = D & -D;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
#pragma unroll
    for (int e = 0; e < D / 32; e++) {
      float other = simd_shuffle_xor(v[e], ushort(d));
      v[e] = (lane & uint(d)) != 0u ? other - v[e] : v[e] + other;
    }
  }
#pragma unroll
  for (int d = 1; d < P / 32; d *= 2) {
#pragma unroll
    for (int e = 0; e < D / 32; e++) {
      if ((e & d) == 0) {
        float a = v[e];
        float b = v[e + d];
        v[e] = a + b;
        v[e + d] = a - b;
      }
    }
  }
  float scale = metal::precise::rsqrt(float(P));
#pragma unroll
  for (int e = 0; e < D / 32; e++) {
    v[e] *= scale;
  }
}

template <int D>
METAL_FUNC void turn(thread float (&v)[D / 32], uint lane) {
  change_signs<D>(v, lane);
  hadamard<D>(v, lane);
}

template <int D>
METAL_FUNC void turn_back(thread float (&v)[D / 32], uint lane) {
  hadamard<D>(v, lane);
  change_signs<D>(v, lane);
}

// Codes to words [D BITS / 32], scale and bias of each group to grid [2 D / SIZE].
template <int D, int BITS, int SIZE, typename T>
METAL_FUNC void pack_head(thread float (&v)[D / 32], device uint* words, device T* grid, uint lane) {
  constexpr int EACH = SIZE / 32;                       // elements that a lane has of a group
  constexpr int PER = 32 / BITS;                        // codes in a word
  constexpr float most = float((1 << BITS) - 1);
#pragma unroll
  for (int g = 0; g < D / SIZE; g++) {
    float low = v[g * EACH];
    float high = low;
    if constexpr (BITS == 2) {                          // by the mean and the deviation
      float sum = low;
#pragma unroll
      for (int e = 1; e < EACH; e++) {
        sum += v[g * EACH + e];
      }
      float mean = simd_sum(sum) / float(SIZE);
      float square = 0.0f;
#pragma unroll
      for (int e = 0; e < EACH; e++) {
        float away = v[g * EACH + e] - mean;
        square = metal::fma(away, away, square);
      }
      float reach = 1.5f * 0.9957f * metal::precise::sqrt(simd_sum(square) / float(SIZE));
      low = mean - reach;
      high = mean + reach;
    } else {
#pragma unroll
      for (int e = 1; e < EACH; e++) {
        low = metal::min(low, v[g * EACH + e]);
        high = metal::max(high, v[g * EACH + e]);
      }
      low = simd_min(low);
      high = simd_max(high);
    }
    T scale = T((high - low) / most);
    T bias = T(low);
    float step = float(scale) > 0.0f ? float(scale) : 1.0f;
    if (lane == 0) {
      grid[2 * g] = scale;
      grid[2 * g + 1] = bias;
    }
#pragma unroll
    for (int e = g * EACH; e < (g + 1) * EACH; e++) {
      float code = metal::clamp(metal::rint((v[e] - float(bias)) / step), 0.0f, most);
      uint word = uint(code) << (BITS * (lane % PER));
#pragma unroll
      for (int d = 1; d < PER; d *= 2) {
        word |= simd_shuffle_xor(word, ushort(d));
      }
      if (lane % PER == 0) {
        words[(lane + 32 * e) / PER] = word;
      }
    }
  }
}
