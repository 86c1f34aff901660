// embed.metal: rows of a packed matrix as numbers. A thread a word of 32 / BITS values.
//
// tokens [count]; w [V, D BITS / 32]; scales, biases [V, D / GROUP] -> y [count, D], times SCALE after rounding where SCALED.

// ---- body
  constexpr int PER = 32 / BITS;
  uint i = threadgroup_position_in_grid.x * THREADS + thread_index_in_threadgroup;
  if (i < uint(N)) {
    uint token = tokens[i / (D / PER)];
    uint at = i % (D / PER);
    uint word = w[size_t(token) * (D / PER) + at];
    size_t group = size_t(token) * (D / GROUP) + at * PER / GROUP;
    float scale = float(scales[group]);
    float bias = float(biases[group]);
#pragma unroll
    for (int e = 0; e < PER; e++) {
      float value = metal::fma(scale, float((word >> (BITS * e)) & ((1u << BITS) - 1u)), bias);
      T rounded = T(value);
      y[size_t(i) * PER + e] = SCALED ? T(float(rounded) * as_type<float>(SCALE)) : rounded;
    }
  }
