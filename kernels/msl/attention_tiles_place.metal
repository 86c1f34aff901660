// attention_tiles_place.metal: statements behind attention_place.metal: who copies what in the beginning. The last two
// simdgroups do it for all: where a copy engine is busy they wait for it, while the others turn heads.

  constexpr int TURN = 16;                              // keys of a simdgroup at once: two tiles, in one page
  constexpr int COPIERS = SIMDS < 2 ? SIMDS : 2;
  threadgroup ulong marks[2 * SIMDS];                   // of keys and values, for each simdgroup

  bool copying = simd >= uint(SIMDS - COPIERS);
  if (copying) {
    for (uint s = simd - (SIMDS - COPIERS); s < uint(SIMDS); s += COPIERS) {
      marks_begin<2>(marks + 2 * s);
    }
  }
