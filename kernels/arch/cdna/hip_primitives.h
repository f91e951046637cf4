//! The words of the CUDA and HIP languages for clang's HIP mode without its headers, so that texts of either dialect compile
//! for CDNA: function and memory qualifiers, positions, the barrier, bit casts, fixed-width types.

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define DEVICE __device__ __forceinline__

// Threads of a workgroup at most, and workgroups that a compute unit (four SIMDs) must be able to hold.
#define LAUNCH_BOUNDS_1(THREADS) __attribute__((amdgpu_flat_work_group_size(1, THREADS)))
#define LAUNCH_BOUNDS_2(THREADS, GROUPS) \
    LAUNCH_BOUNDS_1(THREADS) __attribute__((amdgpu_waves_per_eu(((THREADS) * (GROUPS) + 255) / 256)))
#define LAUNCH_BOUNDS_PICK(A, B, NAME, ...) NAME
#define __launch_bounds__(...) LAUNCH_BOUNDS_PICK(__VA_ARGS__, LAUNCH_BOUNDS_2, LAUNCH_BOUNDS_1)(__VA_ARGS__)

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;
// Arithmetic types; `f16` and `bf16` are storage types of `device/scalar.cu`.
typedef _Float16 half;
typedef __bf16 bfloat;

// N neighbours in registers.
template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));

// Positions, whose members are each read from the hardware where they are used.
#define COORDINATE(C, VALUE)                   \
    __declspec(property(get = get_##C)) u32 C; \
    DEVICE u32 get_##C() const { return VALUE; }
#define POSITION(NAME, OF)                                                               \
    struct NAME##_type {                                                                 \
        COORDINATE(x, OF(x)) COORDINATE(y, OF(y)) COORDINATE(z, OF(z))                   \
    };                                                                                   \
    extern const __device__ NAME##_type NAME;
#define ITEM_ID(C) __builtin_amdgcn_workitem_id_##C()
#define GROUP_ID(C) __builtin_amdgcn_workgroup_id_##C()
#define GROUP_SIZE(C) __builtin_amdgcn_workgroup_size_##C()
#define GROUP_COUNT(C) (__builtin_amdgcn_grid_size_##C() / GROUP_SIZE(C))
POSITION(threadIdx, ITEM_ID)
POSITION(blockIdx, GROUP_ID)
POSITION(blockDim, GROUP_SIZE)
POSITION(gridDim, GROUP_COUNT)

// Of the wave's 64.
DEVICE u32 lane_number() {
    return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0));
}

// All waves of the workgroup arrive; what they wrote before is seen after. The wait for LDS (lgkmcnt 0) is said aloud,
// because the compiler drops that of the fence from a barrier at the head of a loop whose body ends with writes.
DEVICE void __syncthreads() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_waitcnt(0xc07f);
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

DEVICE void __threadfence() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }

#define SAME_BITS(NAME, FROM, TO) \
    DEVICE TO NAME(FROM v) { return __builtin_bit_cast(TO, v); }
SAME_BITS(__float_as_uint, float, u32)
SAME_BITS(__float_as_int, float, int)
SAME_BITS(__uint_as_float, u32, float)
SAME_BITS(__int_as_float, int, float)
SAME_BITS(__double_as_longlong, double, i64)
SAME_BITS(__longlong_as_double, i64, double)
DEVICE u32 __umulhi(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
DEVICE u64 __umul64hi(u64 a, u64 b) { return (u64)(((unsigned __int128)a * b) >> 64); }
DEVICE int __clz(u32 v) { return v ? __builtin_clz(v) : 32; }
DEVICE int __popc(u32 v) { return __builtin_popcount(v); }
#define EXTREMES(T)                              \
    DEVICE T min(T a, T b) { return a < b ? a : b; } \
    DEVICE T max(T a, T b) { return a > b ? a : b; }
EXTREMES(u32)
EXTREMES(int)
