// attention_chunks.metal: how attention.metal and self_attention.metal load, and what of the keys they load.
#include "load_now.metal"
#include "packed.metal"

// A lane's elements of a head, in chunks of W neighbours that STRIDE apart, as the words they are stored in.
template <int W, int STRIDE, int N, typename T>
METAL_FUNC void load_chunks(const device T* from, thread uint (&to)[N]) {
  constexpr int WORDS = W * int(sizeof(T)) / 4;         // of a chunk
  constexpr int STEP = WORDS % 4 == 0 ? 4 : WORDS;
#pragma unroll
  for (int i = 0; i < N; i += STEP) {
    uint loaded[STEP];
    load_words((const device uint*)(from + i / WORDS * STRIDE) + i % WORDS, loaded);
#pragma unroll
    for (int e = 0; e < STEP; e++) {
      to[i + e] = loaded[e];
    }
  }
}

// The first `count` of BATCH keys or values, TOGETHER heads apart.
template <int W, int STRIDE, int D, int TOGETHER, int BATCH, int N, typename T>
METAL_FUNC void load_batch(const device T* from, int count, thread uint (&to)[BATCH][N]) {
#pragma unroll
  for (int k = 0; k < BATCH; k++) {
    if (k * TOGETHER < count) {
      load_chunks<W, STRIDE>(from + k * TOGETHER * D, to[k]);
    }
  }
}

// Element e of what was loaded.
template <typename T, int N>
METAL_FUNC float held(thread uint (&words)[N], int e) {
  if constexpr (sizeof(T) == 4) {
    return as_type<float>(words[e]);
  } else {
    return element<T>(words, e);
  }
}

// The pages of a simdgroup's keys of a part; `table` is its row's, [parts SPAN, batch].
template <int SPAN, int KEYS, int PAGE, int N, typename Table>
METAL_FUNC void take_pages(thread uint (&pages)[N], Table table, uint part, uint batch, uint simd) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    pages[i] = uint(load_now(table + (part * SPAN + simd * KEYS / PAGE + i) * batch));
  }
}

// Whether any of the tokens position .. position + NEW - 1 sees any of the COUNT positions from `from` on.
template <int COUNT, int NEW, int WINDOW>
METAL_FUNC bool any_seen(int from, int position) {
  return from < position + NEW && (WINDOW == 0 || from + COUNT > position - WINDOW + 1);
}

// Head `i` of those in threadgroup memory, as load_chunks has it.
template <int D, int W, int STRIDE, typename T, int N>
METAL_FUNC void take_fresh(const threadgroup uint4* heads, int i, uint offset, thread uint (&to)[N]) {
  constexpr int WORDS = W * int(sizeof(T)) / 4;         // of a chunk
  constexpr int STEP = WORDS % 4 == 0 ? 4 : WORDS;
  const threadgroup T* from = (const threadgroup T*)heads + i * D + int(offset);
#pragma unroll
  for (int j = 0; j < N; j += STEP) {
    uint taken[STEP];
    take_words((const threadgroup uint*)(from + j / WORDS * STRIDE) + j % WORDS, taken);
#pragma unroll
    for (int e = 0; e < STEP; e++) {
      to[j + e] = taken[e];
    }
  }
}
