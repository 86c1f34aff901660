// core.h: the part of Metal's vocabulary that is plain C++, for CUDA (cuda.h) and for the tests' host emulator.
//
// Included inside namespace smelt, after half, bfloat, uint, ... and MSL_FN (a function's qualifiers) are defined.
// It is narrower than Metal on purpose: functions of half or bfloat do not exist, so that a kernel widens with
// float(x) when it reads and narrows with T(y) when it writes, which means the same on every machine.

namespace metal {

template <typename A, typename B> struct is_same { static constexpr bool value = false; };
template <typename A> struct is_same<A, A> { static constexpr bool value = true; };
template <typename A, typename B> constexpr bool is_same_v = is_same<A, B>::value;
template <bool C, typename A, typename B> struct conditional { using type = A; };
template <typename A, typename B> struct conditional<false, A, B> { using type = B; };
template <bool C, typename A, typename B> using conditional_t = typename conditional<C, A, B>::type;
template <typename T> struct same_as { using type = T; };
template <typename T> using same_as_t = typename same_as<T>::type;  // a parameter that does not decide T

// ---- vectors: elements by .x .y .z .w or a constant index

template <typename T, int N> struct vec;
#define MSL_VEC_COMMON(N)                                       \
  vec() = default;                                              \
  MSL_FN vec(T s) {                                             \
    for (int i = 0; i < N; i++) (&x)[i] = s;                    \
  }                                                             \
  template <typename U> MSL_FN explicit vec(const vec<U, N>& o) { \
    for (int i = 0; i < N; i++) (&x)[i] = T(o[i]);              \
  }                                                             \
  MSL_FN T& operator[](int i) { return (&x)[i]; }               \
  MSL_FN T operator[](int i) const { return (&x)[i]; }
template <typename T> struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  MSL_VEC_COMMON(2)
  MSL_FN vec(T a, T b) : x(a), y(b) {}
};
template <typename T> struct alignas(4 * sizeof(T)) vec<T, 3> {
  T x, y, z;
  MSL_VEC_COMMON(3)
  MSL_FN vec(T a, T b, T c) : x(a), y(b), z(c) {}
};
template <typename T> struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  MSL_VEC_COMMON(4)
  MSL_FN vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
};
#undef MSL_VEC_COMMON

#define MSL_OPERATOR(OP)                                                                              \
  template <typename T, int N> MSL_FN vec<T, N> operator OP(const vec<T, N>& a, const vec<T, N>& b) { \
    vec<T, N> r;                                                                                      \
    for (int i = 0; i < N; i++) r[i] = T(a[i] OP b[i]);                                               \
    return r;                                                                                         \
  }                                                                                                   \
  template <typename T, int N> MSL_FN vec<T, N> operator OP(const vec<T, N>& a, same_as_t<T> b) { return a OP vec<T, N>(b); }
MSL_OPERATOR(+) MSL_OPERATOR(-) MSL_OPERATOR(*) MSL_OPERATOR(/)
MSL_OPERATOR(&) MSL_OPERATOR(|) MSL_OPERATOR(^) MSL_OPERATOR(<<) MSL_OPERATOR(>>)
#undef MSL_OPERATOR

#define MSL_VECTORS(T) using T##2 = vec<T, 2>; using T##3 = vec<T, 3>; using T##4 = vec<T, 4>;
MSL_VECTORS(float) MSL_VECTORS(half) MSL_VECTORS(bfloat) MSL_VECTORS(uchar) MSL_VECTORS(ushort)
MSL_VECTORS(int) MSL_VECTORS(uint)
#undef MSL_VECTORS

template <typename To, typename From> MSL_FN To as_type(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: the sizes differ");
  To to;
  MSL_COPY(&to, &from, sizeof(To));
  return to;
}

// ---- functions of float

#define MSL_FLOAT_FUNCTION(NAME) \
  MSL_FN float NAME(float x) { return ::NAME##f(x); }
#define MSL_FLOAT_FUNCTIONS(F)                                                                       \
  F(exp) F(exp2) F(log) F(log2) F(sqrt) F(sin) F(cos) F(tanh) F(floor) F(ceil) F(trunc) F(rint) F(fabs) \
  MSL_FN float rsqrt(float x) { return MSL_RSQRT(x); }                                               \
  MSL_FN float pow(float x, float y) { return ::powf(x, y); }                                        \
  MSL_FN float fmin(float x, float y) { return ::fminf(x, y); }                                      \
  MSL_FN float fmax(float x, float y) { return ::fmaxf(x, y); }                                      \
  MSL_FN float fma(float x, float y, float z) { return ::fmaf(x, y, z); }
MSL_FLOAT_FUNCTIONS(MSL_FLOAT_FUNCTION)
namespace precise { MSL_FLOAT_FUNCTIONS(MSL_FLOAT_FUNCTION) }
#undef MSL_FLOAT_FUNCTIONS
#undef MSL_FLOAT_FUNCTION
MSL_FN bool isnan(float x) { return x != x; }
MSL_FN bool isinf(float x) { return ::fabsf(x) == INFINITY; }
MSL_FN float sign(float x) { return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : 0.0f); }

// min, max, clamp: both operands of one type, as Metal's overloads demand; of a NaN and a number, the number.
MSL_FN float min(float a, float b) { return ::fminf(a, b); }
MSL_FN float max(float a, float b) { return ::fmaxf(a, b); }
#define MSL_MIN_MAX(T)                                    \
  MSL_FN T min(T a, T b) { return b < a ? b : a; }        \
  MSL_FN T max(T a, T b) { return a < b ? b : a; }
MSL_MIN_MAX(int) MSL_MIN_MAX(uint) MSL_MIN_MAX(short) MSL_MIN_MAX(ushort) MSL_MIN_MAX(long) MSL_MIN_MAX(ulong)
#undef MSL_MIN_MAX
template <typename T> MSL_FN T clamp(T x, T low, T high) { return min(max(x, low), high); }
MSL_FN int abs(int a) { return a < 0 ? -a : a; }
MSL_FN float abs(float a) { return ::fabsf(a); }
template <typename T> MSL_FN T select(T no, T yes, bool c) { return c ? yes : no; }

// ---- bits

MSL_FN uint popcount(uint x) { return MSL_POPCOUNT(x); }
MSL_FN uint clz(uint x) { return MSL_CLZ(x); }
MSL_FN uint ctz(uint x) { return x ? 31u - MSL_CLZ(x & (~x + 1u)) : 32u; }
MSL_FN uint mulhi(uint a, uint b) { return uint((ulong(a) * ulong(b)) >> 32); }

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
MSL_FN constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }
enum memory_order { memory_order_relaxed, memory_order_seq_cst };

}  // namespace metal
using namespace metal;
