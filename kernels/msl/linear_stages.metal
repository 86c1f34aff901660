// linear_stages.metal: rows of W and their scales on their way through threadgroup memory, for linear_bytes.metal.
#include "packed.metal"
#include "staging.metal"

// A row of W, counted from the threadgroup's first, in tile h of a pair: of a gate and its up, or of two tiles that
// follow one another. Past the end: the last row again, which is in a cache; computed, not stored.
template <int OUTS, bool GATED>
METAL_FUNC uint own_row(int pair, uint row, int h) {
  int first = GATED ? pair * 8 : pair * 16 + h * 8;
  return first + 8 <= OUTS ? first + row : metal::min(first + row, uint(OUTS - 1));
}

// Where a stage holds a row's piece of 16 bytes, of PIECES; a unit is UNIT of them. Lanes that read their rows at the
// same time find them in different banks: by an exchange of pieces where rows fill the banks, else by room between rows.
template <int PIECES>
METAL_FUNC constexpr bool pieces_exchanged() {
  return PIECES % 8 == 0 || PIECES == 4 || PIECES == 2;
}
template <int PIECES, int UNIT>
METAL_FUNC constexpr uint stage_pitch() {
  return pieces_exchanged<PIECES>() ? PIECES : PIECES + (UNIT + 8 * PIECES - PIECES) % 8;
}
template <int PIECES, int UNIT>
METAL_FUNC uint stage_place(uint row, uint piece) {
  constexpr uint together = PIECES < 8 ? 8 / PIECES : 1;            // rows that fill the banks
  constexpr uint mask = PIECES < 8 ? PIECES - 1 : 7;
  uint moved = pieces_exchanged<PIECES>() ? piece ^ (UNIT * (row / together) & mask) : piece;
  return row * stage_pitch<PIECES, UNIT>() + moved;
}

// The row that a lane copies a piece of with its copy i, and the tile of the pair that it is in.
template <int PIECES>
METAL_FUNC uint copied_row(uint lane, int i) {
  return 32 % PIECES == 0 && PIECES >= 4 ? lane / PIECES + uint(32 / PIECES * i % 8) : (lane + 32u * i) / PIECES % 8;
}
template <int PIECES>
METAL_FUNC int copied_tile(uint lane, int i) {
  return 32 % PIECES == 0 && PIECES >= 4 ? 32 / PIECES * i / 8 : int((lane + 32u * i) / (8 * PIECES));
}

// A pair of tiles on its way to a stage.
template <int TAKEN, bool GATED, int O, int WORDS, int W, int PIECES>
METAL_FUNC void copy_pair(threadgroup uint4* stage, const device uint* w, int pair, uint base, uint at, uint lane) {
#pragma unroll
  for (int i = 0; i < PIECES / 2; i++) {
    uint row = copied_row<PIECES>(lane, i);
    int h = copied_tile<PIECES>(lane, i);
    uint piece = (lane + 32u * i) % PIECES;
    size_t matrix = base + own_row<TAKEN, GATED>(pair, row, h) + (GATED ? uint(h) * O : 0u);
    const device uint4* from = (const device uint4*)(w + matrix * WORDS + at * 4 * W) + piece;
    copy_ahead(stage + stage_place<PIECES, W>(8 * h + row, piece), from);
  }
}

// Scales and biases of a turn's rows of W on their way: [scales, biases][pair of the turn][tile][row][PITCH], of each row
// SHARE groups from `group` on.
template <int TAKEN, bool GATED, int O, int TURN, int GROUPS, int SHARE, int PIECE, int PITCH, typename T>
METAL_FUNC void copy_scales(threadgroup T* to, const device T* scales, const device T* biases, uint base, uint group,
                            int turn, uint index, uint threads) {
  using Piece = typename Words<PIECE / 2>::type;
  constexpr int EACH = SHARE / PIECE;                               // copies of one row
#pragma unroll 1
  for (uint i = index; i < uint(16 * TURN * EACH); i += threads) {
    uint r = i / EACH;
    uint own = GATED ? (turn * TURN + r / 16) * 8 + r % 8 : turn * TURN * 16 + r;
    uint row = base + metal::min(own, uint(TAKEN - 1)) + (GATED ? r / 8 % 2 * O : 0u);
    uint from = group + i % EACH * PIECE;
    uint at = r * PITCH + i % EACH * PIECE;
    if (from < uint(GROUPS)) {
      copy_ahead((threadgroup Piece*)(to + at), (const device Piece*)(scales + size_t(row) * GROUPS + from));
      copy_ahead((threadgroup Piece*)(to + 16 * TURN * PITCH + at), (const device Piece*)(biases + size_t(row) * GROUPS + from));
    }
  }
}

// load_pairs (packed.metal) out of threadgroup memory: N consecutive 16-bit elements as pairs in words, STEP (1, 2 or 4) in
// one load.
template <int STEP, int N, typename T>
METAL_FUNC void take_pairs(const threadgroup T* from, thread uint (&words)[(N + 1) / 2]) {
  if constexpr (STEP == 1) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      words[i / 2] = as_type<uint>(vec<T, 2>(from[i], from[i + 1 < N ? i + 1 : i]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; i += STEP) {
      uint loaded[STEP / 2];
      take_words((const threadgroup uint*)(from + i), loaded);
      for (int e = 0; e < STEP / 2; e++) {
        words[i / 2 + e] = loaded[e];
      }
    }
  }
}
