// host.h: Metal's vocabulary for the host emulator. Kernels are compiled with -fsanitize=thread, of which only the
// instrumentation is used: every load and store calls a hook in runtime.cpp, which checks it.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define MSL_FN inline
#define METAL_FUNC inline __attribute__((always_inline))
#define MSL_COPY __builtin_memcpy
#define MSL_RSQRT(x) (1.0f / ::sqrtf(x))
#define MSL_POPCOUNT(x) uint(__builtin_popcount(x))
#define MSL_CLZ(x) ((x) ? uint(__builtin_clz(x)) : 32u)
#undef INFINITY
#define INFINITY __builtin_inff()

extern "C" {
struct msl_post {  // what one lane brings to a simdgroup operation
  alignas(16) unsigned char value[64];
  int32_t argument;
  int32_t present;
};
const msl_post* msl_exchange(const void* value, uint32_t size, int32_t argument, const char* what, int uniform,
                             int line);
void msl_simd_barrier(uint32_t flags, int line);
void msl_barrier(uint32_t flags, int line);
void* msl_threadgroup_array(uint32_t id, uint64_t size, uint32_t element, const char* name, int line);
uint32_t msl_lane(void);
uint32_t msl_atomic(void* at, uint32_t value, int operation, int is_signed, int line);
void msl_fence(void);
}

namespace smelt {
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::size_t;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;

// half and bfloat are storage: they convert to and from numbers only where the text says so.
inline uint16_t msl_bfloat_bits(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40u);
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
struct bfloat {
  uint16_t bits;
  bfloat() = default;
  explicit bfloat(float f) : bits(msl_bfloat_bits(f)) {}
  explicit operator float() const {
    uint32_t u = uint32_t(bits) << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
  }
};
struct half {
  uint16_t bits;
  half() = default;
  explicit half(float f) {
    _Float16 h = (_Float16)f;
    __builtin_memcpy(&bits, &h, 2);
  }
  explicit operator float() const {
    _Float16 h;
    __builtin_memcpy(&h, &bits, 2);
    return float(h);
  }
};
typedef half float16_t;
typedef bfloat bfloat16_t;

#include "core.h"

namespace metal {
typedef vec<ulong, 2> ulong2;

inline void threadgroup_barrier(mem_flags f, int line = __builtin_LINE()) { msl_barrier(uint(f), line); }
inline void simdgroup_barrier(mem_flags f, int line = __builtin_LINE()) { msl_simd_barrier(uint(f), line); }

#define MSL_UNCHECKED __attribute__((no_sanitize("thread")))
template <typename T>
MSL_UNCHECKED inline T msl_posted(const msl_post* posts, int lane) {
  T value;  // of a lane that is not there: a pattern that shows
  __builtin_memset(&value, 0xfd, sizeof(T));
  if (lane >= 0 && lane < 32 && posts[lane].present) __builtin_memcpy(&value, posts[lane].value, sizeof(T));
  return value;
}
template <typename T>
struct msl_simd_type {
  static constexpr bool ok = sizeof(T) <= 4 && !is_same_v<T, bfloat>;
};
template <typename T, int N>
struct msl_simd_type<vec<T, N>> : msl_simd_type<T> {};
template <typename T>
inline const msl_post* msl_post_value(T& x, int argument, const char* what, int uniform, int line) {
  static_assert(msl_simd_type<T>::ok, "simd functions take float, half, or integers of up to 32 bits");
  return msl_exchange(&x, sizeof(T), argument, what, uniform, line);
}

// Reductions by the ascending butterfly. Metal does not say its order; CUDA's prelude has this one.
#define MSL_REDUCE(NAME, JOINED)                                  \
  template <typename T>                                           \
  MSL_UNCHECKED inline T NAME(T x, int line = __builtin_LINE()) { \
    const msl_post* posts = msl_post_value(x, 0, #NAME, 0, line); \
    T t[32];                                                      \
    for (int i = 0; i < 32; i++) t[i] = msl_posted<T>(posts, i);  \
    for (int d = 1; d < 32; d <<= 1)                              \
      for (int i = 0; i < 32; i += 2 * d) {                       \
        T a = t[i], b = t[i + d];                                 \
        t[i] = JOINED;                                            \
      }                                                           \
    return t[0];                                                  \
  }
MSL_REDUCE(simd_sum, T(a + b))
MSL_REDUCE(simd_min, min(a, b)) MSL_REDUCE(simd_max, max(a, b)) MSL_REDUCE(simd_and, T(a& b))
    MSL_REDUCE(simd_or, T(a | b))
#undef MSL_REDUCE

#define MSL_SHUFFLE(NAME, UNIFORM, FROM)                                     \
  template <typename T>                                                      \
  MSL_UNCHECKED inline T NAME(T x, ushort n, int line = __builtin_LINE()) {  \
    const msl_post* posts = msl_post_value(x, int(n), #NAME, UNIFORM, line); \
    int lane = int(msl_lane());                                              \
    (void)lane;                                                              \
    return msl_posted<T>(posts, FROM);                                       \
  }
        MSL_SHUFFLE(simd_shuffle, 0, int(n)) MSL_SHUFFLE(simd_broadcast, 1, int(n))
            MSL_SHUFFLE(simd_shuffle_xor, 1, lane ^ int(n)) MSL_SHUFFLE(simd_shuffle_down, 1, lane + int(n))
                MSL_SHUFFLE(simd_shuffle_up, 1, lane - int(n))
#undef MSL_SHUFFLE

#define MSL_SCAN(NAME, BELOW)                                                                          \
  template <typename T>                                                                                \
  MSL_UNCHECKED inline T NAME(T x, int line = __builtin_LINE()) {                                      \
    const msl_post* posts = msl_post_value(x, 0, #NAME, 0, line);                                      \
    T sum = T(0);                                                                                      \
    for (int i = 0, lane = int(msl_lane()); i BELOW lane; i++) sum = T(sum + msl_posted<T>(posts, i)); \
    return sum;                                                                                        \
  }
                    MSL_SCAN(simd_prefix_inclusive_sum, <=) MSL_SCAN(simd_prefix_exclusive_sum, <)
#undef MSL_SCAN

                        struct simd_vote {
  ulong bits;
  explicit operator ulong() const { return bits; }
};
MSL_UNCHECKED inline simd_vote simd_ballot(bool x, int line = __builtin_LINE()) {
  const msl_post* posts = msl_exchange(&x, 1, 0, "simd_ballot", 0, line);
  ulong bits = 0;
  for (int i = 0; i < 32; i++) bits |= ulong(posts[i].present && posts[i].value[0]) << i;
  return simd_vote{bits};
}
inline bool simd_all(bool x, int line = __builtin_LINE()) { return simd_ballot(x, line).bits == 0xffffffffu; }
inline bool simd_any(bool x, int line = __builtin_LINE()) { return simd_ballot(x, line).bits != 0; }

// ---- 8x8 matrices: a lane holds row msl_tile_row, columns msl_tile_column and the next, as on Apple GPUs

inline int msl_tile_row(int lane) { return ((lane >> 2) & 4) | ((lane >> 1) & 3); }
inline int msl_tile_column(int lane) { return ((lane >> 1) & 4) | ((lane & 1) << 1); }
template <typename T, int R, int C>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "only 8x8 matrices exist");
  vec<T, 2> held;
  vec<T, 2>& thread_elements() { return held; }
};
template <typename T>
MSL_UNCHECKED inline void msl_whole(T (&matrix)[8][8], const msl_post* posts, int offset) {
  for (int lane = 0; lane < 32; lane++)
    __builtin_memcpy(&matrix[msl_tile_row(lane)][msl_tile_column(lane)], posts[lane].value + offset, 2 * sizeof(T));
}
template <typename D, typename A, typename B, typename C>
MSL_UNCHECKED inline void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d,
                                                        const simdgroup_matrix<A, 8, 8>& a,
                                                        const simdgroup_matrix<B, 8, 8>& b,
                                                        const simdgroup_matrix<C, 8, 8>& c,
                                                        int line = __builtin_LINE()) {
  struct {
    vec<A, 2> a;
    alignas(8) vec<B, 2> b;
  } mine = {a.held, b.held};
  const msl_post* posts = msl_exchange(&mine, sizeof mine, 0, "simdgroup_multiply_accumulate", 0, line);
  A left[8][8];
  B right[8][8];
  msl_whole(left, posts, 0);
  msl_whole(right, posts, 8);
  int lane = int(msl_lane()), row = msl_tile_row(lane), column = msl_tile_column(lane);
  for (int e = 0; e < 2; e++) {
    float sum = float(c.held[e]);
    for (int k = 0; k < 8; k++) sum = ::fmaf(float(left[row][k]), float(right[k][column + e]), sum);
    d.held[e] = D(sum);
  }
}
template <typename T>
inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* from, ulong stride = 8, ulong2 origin = ulong2(0, 0),
                           bool transpose = false, int line = __builtin_LINE()) {
  char none = 0;
  msl_exchange(&none, 1, 0, "simdgroup_load", 0, line);
  int lane = int(msl_lane()), row = msl_tile_row(lane), column = msl_tile_column(lane);
  for (int e = 0; e < 2; e++) {
    ulong r = transpose ? column + e : row, c = transpose ? row : column + e;
    m.held[e] = from[(origin.y + r) * stride + origin.x + c];
  }
}
template <typename T>
inline void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, T* to, ulong stride = 8, int line = __builtin_LINE()) {
  char none = 0;
  msl_exchange(&none, 1, 0, "simdgroup_store", 0, line);
  int lane = int(msl_lane()), row = msl_tile_row(lane), column = msl_tile_column(lane);
  for (int e = 0; e < 2; e++) to[row * stride + column + e] = m.held[e];
}

// ---- atomics

enum thread_scope { thread_scope_device };
inline void atomic_thread_fence(mem_flags, memory_order, thread_scope) { msl_fence(); }
template <typename T>
struct atomic {
  T value;
};
typedef atomic<uint> atomic_uint;
typedef atomic<int> atomic_int;
#define MSL_ATOMIC(NAME, OPERATION)                                                        \
  template <typename T>                                                                    \
  inline T NAME(atomic<T>* p, same_as_t<T> v, memory_order, int line = __builtin_LINE()) { \
    return T(msl_atomic(p, uint(v), OPERATION, is_same_v<T, int>, line));                  \
  }
MSL_ATOMIC(atomic_exchange_explicit, 1)
MSL_ATOMIC(atomic_fetch_add_explicit, 2) MSL_ATOMIC(atomic_fetch_min_explicit, 3)
    MSL_ATOMIC(atomic_fetch_max_explicit, 4)
#undef MSL_ATOMIC
        template <typename T>
        inline T atomic_load_explicit(const atomic<T>* p, memory_order, int line = __builtin_LINE()) {
  return T(msl_atomic((void*)p, 0, 0, 0, line));
}
template <typename T>
inline void atomic_store_explicit(atomic<T>* p, same_as_t<T> v, memory_order, int line = __builtin_LINE()) {
  msl_atomic(p, uint(v), 5, 0, line);
}
}  // namespace metal
}  // namespace smelt

#define double Metal_has_no_double
