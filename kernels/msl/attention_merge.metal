// attention_merge.metal: the parts of attention.metal joined, in the order of positions. A thread an element of a head.
//
// partial [B, KV, P, R, D], stats [B, KV, P, R, 2], bounds [B, 2], size [2] as there -> o [B, NEW, KV * GROUP, D].

// ---- body
  constexpr int R = GROUP * NEW;

  uint d = thread_index_in_threadgroup;
  uint r = threadgroup_position_in_grid.x;
  uint head = threadgroup_position_in_grid.y;
  uint row = threadgroup_position_in_grid.z;
  uint token = r % NEW;
  int own = bounds[2 * row + 1] + int(token);
  int begin = bounds[2 * row];
  int oldest = WINDOW == 0 ? 0 : metal::max(0, own - WINDOW + 1);
  int from = metal::max(0, oldest - begin) / (SPAN * PAGE);
  int upto = (own - begin) / (SPAN * PAGE);             // the part of the token itself
  int count = (size[1] + SPAN - 1) / SPAN;
  size_t base = (size_t(row) * KV + head) * uint(count);

  if (d < uint(D)) {
    float top = -1e30f;
    for (int p = from; p <= upto; p++) {
      top = metal::max(top, stats[2 * ((base + p) * R + r)]);
    }
    float sum = 0.0f;
    float value = 0.0f;
    for (int p = from; p <= upto; p++) {
      size_t at = (base + p) * R + r;
      float weight = metal::precise::exp(stats[2 * at] - top);
      sum = metal::fma(weight, stats[2 * at + 1], sum);
      value = metal::fma(weight, partial[at * D + d], value);
    }
    o[((size_t(row) * NEW + token) * (KV * GROUP) + head * GROUP + r / NEW) * D + d] = T(value / sum);
  }
