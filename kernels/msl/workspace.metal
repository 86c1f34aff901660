// workspace.metal: an area of a workspace, see workspace.py.
//
// near: waited for, not read -> area: words that are VALUE, 256 a threadgroup; those behind them are left as they are.

// ---- body
  area[thread_position_in_grid.x] = uint(VALUE);
