// self_attention_heads.metal: statements that bring a threadgroup its heads of the rows of qkv, normed and turned: its
// tile of q to `queries` [TILE, PITCH], keys and values of the new tokens in its parts to `fresh` [NEW, 2, D] and, by the
// first tile's threadgroup, to their slots.

  // Each simdgroup a head: the rows of q, then keys and values of the new tokens that are in its parts.
  for (int u = int(simd); u < UNITS; u += SIMDS) {
    if (UNITS > SIMDS && u != int(simd)) {
      unit = head_of<GROUP, NEW, KV, TILE, SAME>(uint(u), tile, head);
      slot = uint(load_now(slots_of + row * NEW + unit.y));
      bring_head(coming, qkv + ((size_t(row) * NEW + unit.y) * GIVEN + unit.z) * D,
                 gain_of_kind<D, Q_GAIN, K_GAIN>(gains, unit.x), of_kind(unit.x, Q_GAIN, K_GAIN, V_GAIN), lane);
      bring_turn(turn, turns + (size_t(row) * NEW + unit.y) * DIMS, lane);
    }
    uint kind = unit.x;
    int token = int(unit.y);
    uint own_part = uint(position + token - origin) / SIZE;
    if (kind == 0 || (ONCE ? own_part : own_part % step) == threadgroup_position_in_grid.z) {
      bool normed = of_kind(kind, Q_NORM, K_NORM, V_NORM);
      float v[D / 32];
      turn_head(v, coming, normed, of_kind(kind, Q_GAIN, K_GAIN, V_GAIN), DIMS > 0 && kind < 2, turn, as_type<float>(EPS),
                as_type<float>(MAGNITUDE), turning, lane);
      auto pool = kind == 1 ? keys : values;
      size_t to = (size_t(head) * slots + slot) * D;      // of keys and values
      threadgroup T* near = kind == 0 ? (threadgroup T*)queries + u * PITCH
                                      : (threadgroup T*)fresh + (2 * token + int(kind) - 1) * D;
#pragma unroll
      for (int e = 0; e < D / 32; e += P) {
        int at_element = element_of<P>(e, lane);
        if constexpr (P == 2 && sizeof(T) == 2) {
          uint pair = pair_of_values<T>(v[e], v[e + 1]);
          *(threadgroup uint*)(near + at_element) = pair;
          if (kind > 0 && tile == 0) {
            *(device uint*)((device T*)pool + to + at_element) = pair;
          }
        } else {
#pragma unroll
          for (int i = 0; i < P; i++) {
            near[at_element + i] = T(v[e + i]);
            if (kind > 0 && tile == 0) {
              ((device T*)pool)[to + at_element + i] = T(v[e + i]);
            }
          }
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
