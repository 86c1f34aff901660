// attention_part.metal: statements behind attention_place.metal: what the simdgroups join in the end, and the first part of
// the threadgroup that any token of the row sees. If there is none it ends here. Before: `parts`, where simdgroups leave their
// sums [ROWS][ROW_PITCH]; ROWS: rows of q that are joined at once.

  threadgroup float best[SIMDS * TILE];
  threadgroup float sums[SIMDS * TILE];

  size_t above = (size_t(row) * KV + head) * count;     // parts of the rows and heads before
  device float* stats = partial + size_t(batch) * KV * count * R * D;

  if (!WHOLE && !LAST && thread_index_in_threadgroup == 0 && part + threadgroup_position_in_grid.x + row == 0) {
    o[0] = T(0.0f);                                     // what is not used has one element
  }
  if (WINDOW > 0 && part < from_part) {
    part += (from_part - part + step - 1) / step * step;
  }
  if (part > upto_part) {
    return;
  }
  int first = origin + int(part) * SIZE;                // position of the part's first key
