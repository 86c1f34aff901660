// staging.metal: copies from device to threadgroup memory that go on while their thread does other things.
//
// A thread's copies are counted in groups: `copies_end` ends one, even an empty one; `copies_wait<N>` waits until at most
// the last N groups are on their way. Other threads see what was copied after a barrier. Metal's are done at once.
#ifndef MSL_CUDA
template <typename P>
METAL_FUNC void copy_ahead(threadgroup P* to, const device P* from) { *to = *from; }
METAL_FUNC void copies_end() {}
template <int N>
METAL_FUNC void copies_wait() {}
#endif

// So many words as one value.
template <int N> struct Words;
template <> struct Words<4> { using type = uint4; };
template <> struct Words<2> { using type = uint2; };
template <> struct Words<1> { using type = uint; };
