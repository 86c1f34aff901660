// attention_part.metal: statements behind attention_place.metal: what the simdgroups join in the end, and which part the
// threadgroup begins with. If no token of the row sees any of its parts it ends here. Before: `parts`, where simdgroups leave their
// sums [ROWS][ROW_PITCH]; ROWS: rows of q that are joined at once.

  threadgroup float best[SIMDS * TILE];
  threadgroup float sums[SIMDS * TILE];

  size_t above = (size_t(row) * KV + head) * count;     // parts of the rows and heads before
  device float* partial = LAST ? (device float*)(in_place(room) + COUNTERS) : (device float*)o;
  device float* stats = partial + size_t(batch) * KV * count * R * D;

  if (!ONCE && part <= upto_part) {                     // the last of its parts first: of that one there is less to copy
    part += (upto_part - part) / step * step;
  }
  if (part < from_part || part > upto_part) {
    return;
  }
  int first = origin + int(part) * SIZE;                // position of the part's first key
