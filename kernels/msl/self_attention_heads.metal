// self_attention_heads.metal: statements that bring a threadgroup its heads of the rows of qkv, normed and turned: its
// tile of q to `queries` [TILE, PITCH], keys and values of the new tokens in its part to `fresh` [NEW, 2, D] and, by the
// first tile's threadgroup, to their slots.

  // Each simdgroup a head: the rows of q, then keys and values of the new tokens that are in this part.
  int begun = position - first;                         // where the first new token is in this part
  for (int u = int(simd); seen && u < TILE + 2 * NEW; u += SIMDS) {
    int kind = u < TILE ? 0 : 1 + (u - TILE) % 2;       // q, k, v
    uint r = metal::min(tile * TILE + uint(metal::min(u, TILE - 1)), uint(R - 1));
    int token = u < TILE ? int(r % NEW) : (u - TILE) / 2;
    if (kind == 0 || (begun + token >= 0 && begun + token < SPAN * PAGE)) {
      uint from = kind == 0 ? head * GROUP + r / NEW : (kind == 1 || SAME ? HEADS + head : HEADS + KV + head);
      const device T* source = qkv + (size_t(row) * NEW + token) * (GIVEN * D) + from * D;
      const device T* weight = kind == 0 ? q_gain : (kind == 1 ? k_gain : v_gain);
      bool normed = kind == 0 ? Q_NORM : (kind == 1 ? K_NORM : V_NORM);
      bool weighted = kind == 0 ? Q_GAIN : (kind == 1 ? K_GAIN : V_GAIN);
      float at = float(position + token) * as_type<float>(PERIODIC);
      float v[D / 32];
      turned_head<D, DIMS, INTERLEAVED>(source, weight, normed, weighted, DIMS > 0 && kind < 2, periods, at,
                                        as_type<float>(EPS), as_type<float>(MAGNITUDE), parts + simd * D, lane, v);
      if (kind == 0) {
#pragma unroll
        for (int e = 0; e < D / 32; e++) {
          ((threadgroup T*)queries)[u * PITCH + lane + 32 * e] = T(v[e]);
        }
      } else {
        auto pool = kind == 1 ? keys : values;
        size_t to = (size_t(head) * slots + uint(slots_of[row * NEW + token])) * D;
#pragma unroll
        for (int e = 0; e < D / 32; e++) {
          ((threadgroup T*)fresh)[(2 * token + kind - 1) * D + lane + 32 * e] = T(v[e]);
          if (tile == 0) {
            ((device T*)pool)[to + lane + 32 * e] = T(v[e]);
          }
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
