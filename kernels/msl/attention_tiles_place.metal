// attention_tiles_place.metal: statements behind attention_place.metal: how a part's keys are shared out, and who copies them.
//
// A threadgroup takes ROUND keys at once, TURN of each simdgroup. REGION of them are neighbours in one page; they are copied
// together and PER simdgroups share them. The last two simdgroups copy for all: where a copy engine is busy they wait for it,
// while the others turn heads. Each has every other region.

  constexpr int TURN = 16;                              // two tiles
  constexpr int ROUND = SIMDS * TURN;
  constexpr int REGION = ROUND < PAGE ? ROUND : PAGE;
  constexpr int REGIONS = ROUND / REGION;
  constexpr int PER = REGION / TURN;
  constexpr int COPIERS = SIMDS < 2 ? SIMDS : 2;
  constexpr int COPIED = (REGIONS + COPIERS - 1) / COPIERS;  // regions of a copier
  static_assert(SIZE % ROUND == 0 && ROUND % REGION == 0 && PAGE % REGION == 0, "keys that cannot be shared out");
  threadgroup ulong marks[2 * REGIONS];                 // of keys and values of each region

  bool copying = simd >= uint(SIMDS - COPIERS);
  uint copier = simd % COPIERS;
  uint pages[COPIED];                                   // of its regions of the first round: all load, without a branch
  if (ONCE) {
    take_round<SPAN, REGION, REGIONS, COPIERS, PAGE>(pages, table, part, 0, batch, copier);
  }
  if (copying) {
#pragma unroll
    for (int i = 0; i < COPIED; i++) {
      if (REGIONS % COPIERS == 0 || copier + i * COPIERS < uint(REGIONS)) {
        marks_begin<2>(marks + 2 * (copier + i * COPIERS));
      }
    }
  }
