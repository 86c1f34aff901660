// bytes.metal: products of bytes on the matrix units, as NVIDIA's have them: 16x32 times 32x8, sums of 32 bits.
//
// Lane 4 g + j holds of the left matrix rows g and g + 8, of the right one and of the product column g and columns
// 2 j, 2 j + 1: a[0], a[1] columns 4 j .. 4 j + 3 of both rows, a[2], a[3] those 16 further; b0, b1 likewise.
// Metal's matrix units have no bytes: there it is said with shuffles, right and slow, and no default takes it.
#ifndef MSL_CUDA
METAL_FUNC int dot_bytes(uint a, uint b, bool negative) {
  int sum = 0;
  for (int i = 0; i < 4; i++) {
    int y = int(b >> (8 * i) & 255u);
    sum += int(a >> (8 * i) & 255u) * (negative && y > 127 ? y - 256 : y);
  }
  return sum;
}

// c += a b; a without signs, b with signs where SIGNED. c [two rows][two columns].
template <bool SIGNED>
METAL_FUNC void multiply_bytes(thread int (&c)[4], thread uint (&a)[4], uint b0, uint b1) {
  uint lane = simd_prefix_exclusive_sum(1u);
  for (uint j = 0; j < 4; j++) {
    for (int h = 0; h < 2; h++) {
      uint first = simd_shuffle(a[h], ushort(lane / 4 * 4 + j));
      uint second = simd_shuffle(a[2 + h], ushort(lane / 4 * 4 + j));
      for (uint e = 0; e < 2; e++) {
        ushort from = ushort((lane % 4 * 2 + e) * 4 + j);
        c[2 * h + int(e)] += dot_bytes(first, simd_shuffle(b0, from), SIGNED) + dot_bytes(second, simd_shuffle(b1, from), SIGNED);
      }
    }
  }
}

// The low bytes of four numbers and of four more, then their second bytes.
METAL_FUNC uint4 planes_of(uint a, uint b, uint c, uint d, uint e, uint f, uint g, uint h) {
  uint4 planes;
  for (int p = 0; p < 2; p++) {
    planes[2 * p] = (a >> 8 * p & 255u) | (b >> 8 * p & 255u) << 8 | (c >> 8 * p & 255u) << 16 | (d >> 8 * p & 255u) << 24;
    planes[2 * p + 1] = (e >> 8 * p & 255u) | (f >> 8 * p & 255u) << 8 | (g >> 8 * p & 255u) << 16 | (h >> 8 * p & 255u) << 24;
  }
  return planes;
}

template <bool SIGNED>
METAL_FUNC int sum_bytes(uint word) { return dot_bytes(0x01010101u, word, SIGNED); }

// Each half's larger one.
METAL_FUNC uint max_pairs(uint a, uint b) { return metal::max(a & 0xffffu, b & 0xffffu) | metal::max(a >> 16, b >> 16) << 16; }
#endif

// What two rows of W give to product t of a unit: of 4 bits the even values of a word, then its odd ones.
template <int BITS, int W>
METAL_FUNC void weights_as_bytes(thread uint (&a)[4], thread uint (&words0)[W], thread uint (&words1)[W], int t) {
  if constexpr (BITS == 4) {
    a[0] = words0[t] & 0x0f0f0f0fu;
    a[1] = words1[t] & 0x0f0f0f0fu;
    a[2] = words0[t] >> 4 & 0x0f0f0f0fu;
    a[3] = words1[t] >> 4 & 0x0f0f0f0fu;
  } else {
    a[0] = words0[2 * t];
    a[1] = words1[2 * t];
    a[2] = words0[2 * t + 1];
    a[3] = words1[2 * t + 1];
  }
}
