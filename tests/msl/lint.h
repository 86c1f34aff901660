// lint.h: declarations of Metal's vocabulary for clang's C++ for OpenCL, whose address spaces are Metal's. bfloat is
// only a name there: kernels are linted in half and float.
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define device __global
#define threadgroup __local
#define constant __constant
#define thread __private
#define METAL_FUNC inline __attribute__((always_inline))
#define INFINITY __builtin_inff()
typedef unsigned char uchar; typedef unsigned short ushort; typedef unsigned int uint; typedef unsigned long ulong;
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t;
typedef uchar uint8_t; typedef ushort uint16_t; typedef uint uint32_t; typedef ulong uint64_t; typedef ulong size_t;
typedef half float16_t;
struct bfloat;
#define VECTORS(T)                                        \
  typedef T T##2 __attribute__((ext_vector_type(2)));     \
  typedef T T##3 __attribute__((ext_vector_type(3)));     \
  typedef T T##4 __attribute__((ext_vector_type(4)));
VECTORS(float) VECTORS(half) VECTORS(uchar) VECTORS(ushort) VECTORS(int) VECTORS(uint) VECTORS(ulong)
#undef VECTORS

namespace metal {
template <typename T, int N> using vec = T __attribute__((ext_vector_type(N)));
template <typename A, typename B> __constant constexpr bool is_same_v = false;
template <typename A> __constant constexpr bool is_same_v<A, A> = true;
template <bool C, typename A, typename B> struct conditional { using type = A; };
template <typename A, typename B> struct conditional<false, A, B> { using type = B; };
template <bool C, typename A, typename B> using conditional_t = typename conditional<C, A, B>::type;
template <typename To, typename From> To as_type(From);

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
mem_flags operator|(mem_flags, mem_flags);
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);

#define FUNCTIONS(F) F(exp) F(exp2) F(log) F(log2) F(sqrt) F(rsqrt) F(sin) F(cos) F(tanh) F(floor) F(ceil) F(trunc) F(rint) F(fabs)
#define ONE(N) float N(float); half N(half);
FUNCTIONS(ONE)
float pow(float, float); float fmin(float, float); float fmax(float, float); float fma(float, float, float);
namespace precise { FUNCTIONS(ONE) float pow(float, float); float fma(float, float, float); }
#undef ONE
#undef FUNCTIONS
bool isnan(float); bool isinf(float); float sign(float);
#define ORDERED(T) T min(T, T); T max(T, T); T clamp(T, T, T);
ORDERED(int) ORDERED(uint) ORDERED(short) ORDERED(ushort) ORDERED(long) ORDERED(ulong) ORDERED(float) ORDERED(half)
#undef ORDERED
int abs(int); float abs(float);
template <typename T> T select(T, T, bool);
uint popcount(uint); uint clz(uint); uint ctz(uint); uint mulhi(uint, uint);

#define LANES(T)                                                                                                   \
  T simd_sum(T); T simd_min(T); T simd_max(T); T simd_prefix_inclusive_sum(T); T simd_prefix_exclusive_sum(T);     \
  T simd_shuffle(T, ushort); T simd_shuffle_xor(T, ushort); T simd_shuffle_down(T, ushort);                        \
  T simd_shuffle_up(T, ushort); T simd_broadcast(T, ushort);
LANES(float) LANES(half) LANES(int) LANES(uint) LANES(short) LANES(ushort) LANES(float2) LANES(float4) LANES(uint2) LANES(uint4)
#undef LANES
uint simd_and(uint); uint simd_or(uint); int simd_and(int); int simd_or(int);
bool simd_all(bool); bool simd_any(bool);
struct simd_vote { explicit operator ulong() const __private; };
simd_vote simd_ballot(bool);

template <typename T, int R, int C> struct simdgroup_matrix {
  vec<T, 2> held;
  __private vec<T, 2>& thread_elements() __private;
};
template <typename T> void simdgroup_load(__private simdgroup_matrix<T, 8, 8>&, const __local T*, ulong = 8, ulong2 = (ulong2)(0, 0), bool = false);
template <typename T> void simdgroup_load(__private simdgroup_matrix<T, 8, 8>&, const __global T*, ulong = 8, ulong2 = (ulong2)(0, 0), bool = false);
template <typename T> void simdgroup_store(__private const simdgroup_matrix<T, 8, 8>&, __local T*, ulong = 8);
template <typename T> void simdgroup_store(__private const simdgroup_matrix<T, 8, 8>&, __global T*, ulong = 8);
template <typename D, typename A, typename B, typename C>
void simdgroup_multiply_accumulate(__private simdgroup_matrix<D, 8, 8>&, __private const simdgroup_matrix<A, 8, 8>&,
                                   __private const simdgroup_matrix<B, 8, 8>&, __private const simdgroup_matrix<C, 8, 8>&);

enum memory_order { memory_order_relaxed, memory_order_seq_cst };
enum thread_scope { thread_scope_device };
void atomic_thread_fence(mem_flags, memory_order, thread_scope);
template <typename T> struct atomic { T value; };
#define atomic_uint metal::atomic<uint>  // OpenCL has types of these names, too
#define atomic_int metal::atomic<int>
#define ATOMIC(N)                                              \
  template <typename T> T N(__local atomic<T>*, T, memory_order); \
  template <typename T> T N(__global atomic<T>*, T, memory_order);
ATOMIC(atomic_fetch_add_explicit) ATOMIC(atomic_fetch_min_explicit) ATOMIC(atomic_fetch_max_explicit) ATOMIC(atomic_exchange_explicit)
#undef ATOMIC
template <typename T> void atomic_store_explicit(__local atomic<T>*, T, memory_order);
template <typename T> void atomic_store_explicit(__global atomic<T>*, T, memory_order);
template <typename T> T atomic_load_explicit(const __local atomic<T>*, memory_order);
template <typename T> T atomic_load_explicit(const __global atomic<T>*, memory_order);
}  // namespace metal
using namespace metal;
