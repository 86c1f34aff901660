// mail_places.metal: places for letters (mail.metal), all EMPTY.
//
// near: waited for, not read -> places [256 a threadgroup], EMPTY; ready [1], 0: something to wait for. T: type of `ready`.
#include "mail.metal"

// ---- body
  places[thread_position_in_grid.x] = EMPTY;
  if (thread_position_in_grid.x == 0u) {
    ready[0] = T(0.0f);
  }
