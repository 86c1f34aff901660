// self_attention_first.metal: statements that ask for each simdgroup's first head of the rows of qkv, and the slot of its token,
// before its keys and values: these are so many that whatever is asked for behind them waits. A simdgroup without a head goes on.

  constexpr int UNITS = TILE + 2 * NEW;                 // heads of a threadgroup: rows of q, then keys and values
  constexpr int P = neighbours_of<D, DIMS, INTERLEAVED>();
  Head<T, D, P> coming;
  Turn<DIMS, INTERLEAVED, P> turn;
  uint3 unit = head_of<GROUP, NEW, KV, TILE, SAME>(metal::min(simd, uint(UNITS - 1)), tile, head);
  uint slot = 0;
  if (SIMDS <= UNITS || simd < uint(UNITS)) {
    slot = uint(load_now(slots_of + row * NEW + unit.y));
    bring_head(coming, qkv + ((size_t(row) * NEW + unit.y) * GIVEN + unit.z) * D,
               gain_of_kind<D, Q_GAIN, K_GAIN>(gains, unit.x), of_kind(unit.x, Q_GAIN, K_GAIN, V_GAIN), lane);
    bring_turn(turn, turns + (size_t(row) * NEW + unit.y) * DIMS, lane);
  }
