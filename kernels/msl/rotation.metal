// rotation.metal: how far the heads of a step's tokens turn: once for all layers that turn alike, since sines take as many
// instructions as the rest of a small head. A thread a pair.
//
// position [B] of the rows' first tokens; periods [DIMS / 2] -> turns [B, NEW, 2, DIMS / 2]: of the angle at * SCALE / periods[i]
// of each pair i of the token at `at` the cosine, then of all the sine.

// ---- body
  uint pair = thread_index_in_threadgroup;
  uint token = threadgroup_position_in_grid.x;
  uint row = threadgroup_position_in_grid.y;
  if (pair < uint(DIMS / 2)) {
    float angle = float(position[row] + int(token)) * as_type<float>(SCALE) / periods[pair];
    size_t to = (size_t(row) * NEW + token) * DIMS + pair;
    turns[to] = metal::precise::cos(angle);
    turns[to + DIMS / 2] = metal::precise::sin(angle);
  }
