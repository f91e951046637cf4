//! Element types as the device kernels see them: how each is read into a number to compute with, and written back.
//!
//! Numbers of types are those of ONNX. Values are computed in `float` (float types up to 32 bits, and integers that fit),
//! `double` or `long long`.

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define DTYPE_F32 1
#define DTYPE_U8 2
#define DTYPE_I8 3
#define DTYPE_U16 4
#define DTYPE_I16 5
#define DTYPE_I32 6
#define DTYPE_I64 7
#define DTYPE_BOOL 9
#define DTYPE_F16 10
#define DTYPE_F64 11
#define DTYPE_U32 12
#define DTYPE_U64 13
#define DTYPE_BF16 16

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
struct boolean {
    u8 bits;
};

__device__ __forceinline__ float bf16_to_f32(u16 bits) { return __uint_as_float((u32)bits << 16); }

// Reading: every type to the type of computation T.
template <class T> __device__ __forceinline__ T widen(f16 v) { return (T)f16_to_f32(v.bits); }
template <class T> __device__ __forceinline__ T widen(bf16 v) { return (T)bf16_to_f32(v.bits); }
template <class T> __device__ __forceinline__ T widen(boolean v) { return (T)(v.bits != 0); }
template <class T> __device__ __forceinline__ T widen(float v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(double v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(u8 v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(i8 v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(u16 v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(i16 v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(u32 v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(int v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(i64 v) { return (T)v; }
template <class T> __device__ __forceinline__ T widen(u64 v) { return (T)v; }

// Writing: the type of computation to every type. Integers narrower than 32 bits wrap, as they do through 32 bits.
template <class S> struct Narrow {
    static __device__ __forceinline__ S from(float v) { return (S)v; }
    static __device__ __forceinline__ S from(double v) { return (S)v; }
    static __device__ __forceinline__ S from(i64 v) { return (S)v; }
};
template <class S> struct NarrowWrapping {
    static __device__ __forceinline__ S from(float v) { return (S)(int)v; }
    static __device__ __forceinline__ S from(double v) { return (S)(int)v; }
    static __device__ __forceinline__ S from(i64 v) { return (S)v; }
};
template <> struct Narrow<u8> : NarrowWrapping<u8> {};
template <> struct Narrow<i8> : NarrowWrapping<i8> {};
template <> struct Narrow<u16> : NarrowWrapping<u16> {};
template <> struct Narrow<i16> : NarrowWrapping<i16> {};
template <> struct Narrow<u32> {
    static __device__ __forceinline__ u32 from(float v) { return (u32)(i64)v; }
    static __device__ __forceinline__ u32 from(double v) { return (u32)(i64)v; }
    static __device__ __forceinline__ u32 from(i64 v) { return (u32)v; }
};
template <> struct Narrow<f16> {
    static __device__ __forceinline__ f16 from(float v) { return f16{f32_to_f16(v)}; }
    static __device__ __forceinline__ f16 from(double v) { return f16{f64_to_f16(v)}; }
    static __device__ __forceinline__ f16 from(i64 v) { return f16{f64_to_f16((double)v)}; }
};
template <> struct Narrow<bf16> {
    static __device__ __forceinline__ bf16 from(float v) { return bf16{f32_to_bf16(v)}; }
    static __device__ __forceinline__ bf16 from(double v) { return bf16{f32_to_bf16((float)v)}; }
    static __device__ __forceinline__ bf16 from(i64 v) { return bf16{f32_to_bf16((float)v)}; }
};
template <> struct Narrow<boolean> {
    static __device__ __forceinline__ boolean from(float v) { return boolean{(u8)(v != 0.0f)}; }
    static __device__ __forceinline__ boolean from(double v) { return boolean{(u8)(v != 0.0)}; }
    static __device__ __forceinline__ boolean from(i64 v) { return boolean{(u8)(v != 0)}; }
};

// V elements that are moved together, 16 bytes at a time at most.
template <class S, int V> struct alignas(sizeof(S) * V < 16 ? sizeof(S) * V : 16) Pack {
    S at[V];
};

template <class S, int V> __device__ __forceinline__ Pack<S, V> load_pack(const S *from) {
    return *(const Pack<S, V> *)from;
}

// What every kernel does first: let the next one start, and wait for what earlier ones wrote.
__device__ __forceinline__ void begin_kernel() {
    dependency_launch();
    dependency_wait();
}

__device__ __forceinline__ float wave_xor_f32(float v, int mask) {
    return __uint_as_float(wave_xor(__float_as_uint(v), mask));
}

// The value of the lane whose number differs in the bits of `mask`.
__device__ __forceinline__ float exchange(float v, int mask) { return wave_xor_f32(v, mask); }
__device__ __forceinline__ i64 exchange(i64 v, int mask) {
    u64 low = wave_xor((u32)(u64)v, mask), high = wave_xor((u32)((u64)v >> 32), mask);
    return (i64)(high << 32 | low);
}
__device__ __forceinline__ double exchange(double v, int mask) {
    return __longlong_as_double(exchange((i64)__double_as_longlong(v), mask));
}

// A value combined over the threads of a row, known to all of them: LANES is WAVE or the threads of the block.
// `space` holds a value for each wave of the block.
template <int LANES, class T, class F> __device__ __forceinline__ T over_row(T v, T *space, F combine) {
    _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1) v = combine(v, exchange(v, mask));
    if (LANES == WAVE) return v;
    __syncthreads();
    if (threadIdx.x % WAVE == 0) space[threadIdx.x / WAVE] = v;
    __syncthreads();
    v = space[0];
    _Pragma("unroll") for (int i = 1; i < LANES / WAVE; i++) v = combine(v, space[i]);
    return v;
}

struct Added {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct Greater {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a > b ? a : b; }
};

// Does BODY with S as the element type of the number DTYPE.
#define FOR_DTYPE(DTYPE, BODY)      \
    switch (DTYPE) {                \
    case DTYPE_F32: { typedef float S; BODY } break;    \
    case DTYPE_F16: { typedef f16 S; BODY } break;      \
    case DTYPE_BF16: { typedef bf16 S; BODY } break;    \
    case DTYPE_F64: { typedef double S; BODY } break;   \
    case DTYPE_I64: { typedef i64 S; BODY } break;      \
    case DTYPE_I32: { typedef int S; BODY } break;      \
    case DTYPE_U8: { typedef u8 S; BODY } break;        \
    case DTYPE_I8: { typedef i8 S; BODY } break;        \
    case DTYPE_BOOL: { typedef boolean S; BODY } break; \
    case DTYPE_U16: { typedef u16 S; BODY } break;      \
    case DTYPE_I16: { typedef i16 S; BODY } break;      \
    case DTYPE_U32: { typedef u32 S; BODY } break;      \
    case DTYPE_U64: { typedef u64 S; BODY } break;      \
    }
