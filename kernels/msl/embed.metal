// embed.metal: rows of a packed matrix as numbers. A threadgroup THREADS words of 32 / BITS values of a row.
//
// tokens [count]; w [V, D BITS / 32]; scales and biases [2, V, D / GROUP] -> y [count, D], times SCALE after rounding where
// SCALED.

// ---- body
  constexpr int PER = 32 / BITS;
  auto biases = scales + size_t(V) * (D / GROUP);
  uint i = threadgroup_position_in_grid.x;
  uint at = threadgroup_position_in_grid.y * THREADS + thread_index_in_threadgroup;
  if (at < uint(D / PER)) {
    size_t token = size_t(tokens[i]);
    uint word = w[token * (D / PER) + at];
    size_t group = token * (D / GROUP) + at * PER / GROUP;
    float scale = float(scales[group]);
    float bias = float(biases[group]);
#pragma unroll
    for (int e = 0; e < PER; e++) {
      float value = metal::fma(scale, float((word >> (BITS * e)) & ((1u << BITS) - 1u)), bias);
      T rounded = T(value);
      y[size_t(i) * D + at * PER + e] = SCALED ? T(float(rounded) * as_type<float>(SCALE)) : rounded;
    }
  }
