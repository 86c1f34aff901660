// staging.metal: copies from device to threadgroup memory that go on while their thread does other things.
//
// A thread's copies are counted in groups: `copies_end` ends one, even an empty one; `copies_wait<N>` waits until at most
// the last N groups are on their way. Other threads see what was copied after a barrier. Metal's are done at once.
//
// Blocks are copied by a simdgroup as a whole: `copy_blocks` copies so many pieces, in blocks of PIECES, PITCH pieces from where a
// block begins to where the next one does. A mark counts what has come; `blocks_wait` waits for its first such copy, its
// second, ..., `odd` for every other one. Where there are no marks, the whole threadgroup meets between copying and reading.
#ifndef MSL_CUDA
template <typename P>
METAL_FUNC void copy_ahead(threadgroup P* to, const device P* from) { *to = *from; }
METAL_FUNC void copies_end() {}
template <int N>
METAL_FUNC void copies_wait() {}

template <int N>
METAL_FUNC void marks_begin(threadgroup ulong*) {}
template <int PIECES, int PITCH>
METAL_FUNC void copy_blocks(threadgroup uint4* to, const device uint4* from, uint pieces, threadgroup ulong*, uint lane) {
  for (uint i = lane; i < pieces; i += 32) {
    to[i / PIECES * PITCH + i % PIECES] = from[i];
  }
}
METAL_FUNC void blocks_meet() { threadgroup_barrier(mem_flags::mem_threadgroup); }
METAL_FUNC void blocks_wait(threadgroup ulong*, bool) {}
#endif

// So many words as one value.
template <int N> struct Words;
template <> struct Words<4> { using type = uint4; };
template <> struct Words<2> { using type = uint2; };
template <> struct Words<1> { using type = uint; };
