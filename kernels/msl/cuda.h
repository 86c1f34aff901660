// cuda.h: Metal's vocabulary on CUDA. kernels/cuda.py puts it in front of a translated kernel; it needs only
// cuda_fp16.h and cuda_bf16.h, so that NVRTC takes 0.1 s and not the 1.5 s that MLX's own headers cost.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#define MSL_CUDA 1
#define MSL_FN __device__ __forceinline__
#define METAL_FUNC __device__ __forceinline__
#define MSL_COPY memcpy
#define MSL_RSQRT ::rsqrtf
#define MSL_POPCOUNT(x) uint(__popc(x))
#define MSL_CLZ(x) uint(__clz(int(x)))
#undef INFINITY
#define INFINITY __builtin_bit_cast(float, 0x7f800000u)

namespace smelt {
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long size_t;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef __half half;
typedef __nv_bfloat16 bfloat;
typedef half float16_t;
typedef bfloat bfloat16_t;

#include "core.h"

namespace metal {
MSL_FN void threadgroup_barrier(mem_flags) { __syncthreads(); }
MSL_FN void simdgroup_barrier(mem_flags) { __syncwarp(); }
MSL_FN uint msl_lane() {
  uint lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// Shuffles of any type, word by word.
#define MSL_SHUFFLE(NAME, WORD)                             \
  template <typename T> MSL_FN T NAME(T value, ushort n) {  \
    constexpr int words = (sizeof(T) + 3) / 4;              \
    uint word[words];                                       \
    word[words - 1] = 0u;                                   \
    MSL_COPY(word, &value, sizeof(T));                      \
    for (int i = 0; i < words; i++) word[i] = WORD;         \
    MSL_COPY(&value, word, sizeof(T));                      \
    return value;                                           \
  }
MSL_SHUFFLE(simd_shuffle, __shfl_sync(0xffffffffu, word[i], int(n)))
MSL_SHUFFLE(simd_broadcast, __shfl_sync(0xffffffffu, word[i], int(n)))
MSL_SHUFFLE(simd_shuffle_xor, __shfl_xor_sync(0xffffffffu, word[i], int(n)))
MSL_SHUFFLE(simd_shuffle_down, __shfl_down_sync(0xffffffffu, word[i], n))
MSL_SHUFFLE(simd_shuffle_up, __shfl_up_sync(0xffffffffu, word[i], n))
#undef MSL_SHUFFLE

// Reductions by the ascending butterfly, the order that the emulator has too.
#define MSL_REDUCE(NAME, JOINED)                                      \
  template <typename T> MSL_FN T NAME(T a) {                          \
    for (ushort d = 1; d < 32; d <<= 1) {                             \
      T b = simd_shuffle_xor(a, d);                                   \
      a = JOINED;                                                     \
    }                                                                 \
    return a;                                                         \
  }
MSL_REDUCE(simd_sum, T(a + b)) MSL_REDUCE(simd_min, metal::min(a, b)) MSL_REDUCE(simd_max, metal::max(a, b))
MSL_REDUCE(simd_and, T(a & b)) MSL_REDUCE(simd_or, T(a | b))
#undef MSL_REDUCE
template <typename T> MSL_FN T simd_prefix_inclusive_sum(T x) {
  for (ushort d = 1; d < 32; d <<= 1) {
    T y = simd_shuffle_up(x, d);
    if (msl_lane() >= d) x = T(x + y);
  }
  return x;
}
template <typename T> MSL_FN T simd_prefix_exclusive_sum(T x) {
  T before = simd_shuffle_up(simd_prefix_inclusive_sum(x), ushort(1));
  return msl_lane() ? before : T(0);
}
MSL_FN bool simd_all(bool x) { return __all_sync(0xffffffffu, x); }
MSL_FN bool simd_any(bool x) { return __any_sync(0xffffffffu, x); }
struct simd_vote {
  ulong bits;
  MSL_FN explicit operator ulong() const { return bits; }
};
MSL_FN simd_vote simd_ballot(bool x) { return simd_vote{ulong(__ballot_sync(0xffffffffu, x))}; }

// Atomics, and what orders other accesses around them, for all threadgroups.
template <typename T> struct atomic { T value; };
typedef atomic<uint> atomic_uint;
typedef atomic<int> atomic_int;
#define MSL_ATOMIC(NAME, CALL) \
  template <typename T> MSL_FN T NAME(atomic<T>* p, same_as_t<T> v, memory_order) { return CALL(&p->value, v); }
MSL_ATOMIC(atomic_fetch_add_explicit, atomicAdd) MSL_ATOMIC(atomic_fetch_min_explicit, atomicMin)
MSL_ATOMIC(atomic_fetch_max_explicit, atomicMax) MSL_ATOMIC(atomic_exchange_explicit, atomicExch)
#undef MSL_ATOMIC
template <typename T> MSL_FN T atomic_load_explicit(const atomic<T>* p, memory_order) { return *(const volatile T*)&p->value; }
template <typename T> MSL_FN void atomic_store_explicit(atomic<T>* p, same_as_t<T> v, memory_order) { *(volatile T*)&p->value = v; }
}  // namespace metal

// fence.metal's device_fence: what comes before a release and after an acquire. And an input that is written to: the compiler
// must not know that it is the same, for of that it believes that nobody writes it.
template <bool> MSL_FN void device_fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
template <typename T> MSL_FN T* in_place(const T* input) {
  T* same;
  asm("mov.b64 %0, %1;" : "=l"(same) : "l"(input));
  return same;
}

// packed.metal's masked_or, low_halves, high_halves
MSL_FN uint masked_or(uint word, uint mask, uint bits) {
  uint result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
  return result;
}
MSL_FN uint low_halves(uint a, uint b) { return __byte_perm(a, b, 0x5410); }
MSL_FN uint high_halves(uint a, uint b) { return __byte_perm(a, b, 0x7632); }

// attention_parts.metal's inverse_of
MSL_FN float inverse_of(float x) {
  float near;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(x));
  return metal::fma(near, metal::fma(-x, near, 1.0f), near);
}

// load_now.metal's load_now: `relaxed`, or the assembler would load behind the branch after all; of `cta`, so that a core's cache
// answers: by `gpu`, every simdgroup's load of a page table's first line goes to the same bank of the device's cache.
#define MSL_LOAD_NOW(TYPE, FORM, CLASS, HELD)                                                          \
  MSL_FN TYPE load_now(const TYPE* from) {                                                             \
    HELD held;                                                                                         \
    asm volatile("ld.relaxed.cta.global." FORM " %0, [%1];" : "=" CLASS(held) : "l"(from));            \
    return __builtin_bit_cast(TYPE, held);                                                             \
  }
MSL_LOAD_NOW(int, "b32", "r", int) MSL_LOAD_NOW(float, "b32", "f", float)
MSL_LOAD_NOW(half, "b16", "h", ushort) MSL_LOAD_NOW(bfloat, "b16", "h", ushort)
#undef MSL_LOAD_NOW

// staging.metal's copies
template <typename P> MSL_FN void copy_ahead(P* to, const P* from) {
  if constexpr (sizeof(P) == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" : : "r"(uint(__cvta_generic_to_shared(to))), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" : : "r"(uint(__cvta_generic_to_shared(to))), "l"(from), "n"(int(sizeof(P))) : "memory");
  }
}
MSL_FN void copies_end() { asm volatile("cp.async.commit_group;" : : : "memory"); }
template <int N> MSL_FN void copies_wait() { asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory"); }

// staging.metal's blocks: from Hopper on by the copy engine of a core, which takes no instructions of the lanes and fills no
// registers; a mark is its barrier.
#if __CUDA_ARCH__ >= 900
MSL_FN bool elected() {                                 // so that the compiler knows: one lane, whose operands are those of all
  uint one;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.b32 %0, 1, 0, p;\n}" : "=r"(one));
  return one != 0u;
}
template <int N> MSL_FN void marks_begin(ulong* marks) {
  if (elected()) {
    for (int i = 0; i < N; i++) {
      asm volatile("mbarrier.init.shared.b64 [%0], 1;" : : "r"(uint(__cvta_generic_to_shared(marks + i))) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
  }
  __syncwarp();
}
template <int PIECES, int PITCH> MSL_FN void copy_blocks(uint4* to, const uint4* from, uint pieces, ulong* mark, uint) {
  if (elected()) {
    uint at = uint(__cvta_generic_to_shared(to)), counted = uint(__cvta_generic_to_shared(mark));
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" : : "r"(counted), "r"(16u * pieces) : "memory");
#pragma unroll 1
    for (int left = int(pieces); left > 0; left -= PIECES) {
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                   : : "r"(at), "l"(from), "r"(16 * metal::min(left, PIECES)), "r"(counted) : "memory");
      at += 16 * PITCH;
      from += PIECES;
    }
  }
}
MSL_FN void blocks_meet() {}
MSL_FN void blocks_wait(ulong* mark, bool odd) {
  asm volatile("{\n.reg .pred done;\nWAITING:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra WAITING;\n}"
               : : "r"(uint(__cvta_generic_to_shared(mark))), "r"(uint(odd)) : "memory");
}
#else
template <int N> MSL_FN void marks_begin(ulong*) {}
template <int PIECES, int PITCH> MSL_FN void copy_blocks(uint4* to, const uint4* from, uint pieces, ulong*, uint lane) {
  for (uint i = lane; i < pieces; i += 32) copy_ahead(to + i / PIECES * PITCH + i % PIECES, from + i);
}
MSL_FN void blocks_meet() {
  copies_end();
  copies_wait<0>();
  __syncthreads();
}
MSL_FN void blocks_wait(ulong*, bool) {}
#endif

// packed.metal's products: one rounding, as there, and one instruction
MSL_FN vec<bfloat, 2> products(vec<bfloat, 2> a, vec<bfloat, 2> b) {
  return as_type<vec<bfloat, 2>>(__hmul2(as_type<__nv_bfloat162>(a), as_type<__nv_bfloat162>(b)));
}

// ---- tile.metal's functions on tensor cores, whose fragments differ from Metal's 8x8 matrices

template <typename T> struct Tile {
  vec<T, 2> pair;
  MSL_FN vec<T, 2>& thread_elements() { return pair; }
};
MSL_FN uint tile_row(uint lane) { return lane >> 2; }
MSL_FN uint tile_column(uint lane) { return 2u * (lane & 3u); }

// The pair a lane brings is the one its fragment needs: no exchange, no room for one.
MSL_FN constexpr int tile_room(int) { return 0; }
template <int N, typename T> MSL_FN void columns_of_rows(vec<T, 2> (&pairs)[N], Tile<T> (&tiles)[N], T*, uint) {
  for (int i = 0; i < N; i++) tiles[i].pair = pairs[i];
}

template <typename T> MSL_FN void as_right(Tile<T>& tile) {
  uint word = as_type<uint>(tile.pair);
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(word));
  tile.pair = as_type<vec<T, 2>>(word);
}
MSL_FN float column_max(float x) {
  for (ushort d = 4; d < 32; d <<= 1) x = metal::max(x, simd_shuffle_xor(x, d));
  return x;
}
MSL_FN float column_sum(float x) {
  for (ushort d = 4; d < 32; d <<= 1) x += simd_shuffle_xor(x, d);
  return x;
}

#define MSL_MMA(T, NAME)                                                                                          \
  MSL_FN void multiply(Tile<float>& c0, Tile<float>& c1, const Tile<T> (&a0)[2], const Tile<T> (&a1)[2],          \
                       const Tile<T>& b0, const Tile<T>& b1) {                                                    \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
        : "+f"(c0.pair.x), "+f"(c0.pair.y), "+f"(c1.pair.x), "+f"(c1.pair.y)                                      \
        : "r"(as_type<uint>(a0[0].pair)), "r"(as_type<uint>(a1[0].pair)), "r"(as_type<uint>(a0[1].pair)),         \
          "r"(as_type<uint>(a1[1].pair)), "r"(as_type<uint>(b0.pair)), "r"(as_type<uint>(b1.pair)));              \
  }
MSL_MMA(half, "f16") MSL_MMA(bfloat, "bf16")
#undef MSL_MMA

// bytes.metal's functions
template <bool SIGNED> MSL_FN void multiply_bytes(int (&c)[4], uint (&a)[4], uint b0, uint b1) {
#define MSL_MMA(SIGN)                                                                                                        \
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8." SIGN ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"      \
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                                                      \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (SIGNED) {
    MSL_MMA("s8");
  } else {
    MSL_MMA("u8");
  }
#undef MSL_MMA
}
MSL_FN uint4 planes_of(uint a, uint b, uint c, uint d, uint e, uint f, uint g, uint h) {
  uint ab = __byte_perm(a, b, 0x5410u), cd = __byte_perm(c, d, 0x5410u), ef = __byte_perm(e, f, 0x5410u), gh = __byte_perm(g, h, 0x5410u);
  return uint4{__byte_perm(ab, cd, 0x6420u), __byte_perm(ef, gh, 0x6420u), __byte_perm(ab, cd, 0x7531u), __byte_perm(ef, gh, 0x7531u)};
}
template <bool SIGNED> MSL_FN int sum_bytes(uint word) {
  return SIGNED ? __dp4a(int(word), 0x01010101, 0) : int(__dp4a(word, 0x01010101u, 0u));
}
MSL_FN uint max_pairs(uint a, uint b) { return __vmaxu2(a, b); }
}  // namespace smelt

#define MSL_UINT3(V) (::smelt::metal::vec<unsigned, 3>(V.x, V.y, V.z))
#define threadgroup_position_in_grid MSL_UINT3(blockIdx)
#define thread_position_in_threadgroup MSL_UINT3(threadIdx)
#define threads_per_threadgroup MSL_UINT3(blockDim)
#define threadgroups_per_grid MSL_UINT3(gridDim)
#define thread_position_in_grid \
  (::smelt::metal::vec<unsigned, 3>(blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y, blockIdx.z))
#define thread_index_in_threadgroup (threadIdx.x)
#define thread_index_in_simdgroup (threadIdx.x & 31u)
#define simdgroup_index_in_threadgroup (threadIdx.x >> 5)
#define simdgroups_per_threadgroup (blockDim.x >> 5)
