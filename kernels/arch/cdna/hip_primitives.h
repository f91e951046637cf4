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

// Positions, each read from the hardware where it is used.
struct ThreadIndex {
    __declspec(property(get = get_x)) u32 x;
    __declspec(property(get = get_y)) u32 y;
    __declspec(property(get = get_z)) u32 z;
    __device__ __forceinline__ u32 get_x() const { return __builtin_amdgcn_workitem_id_x(); }
    __device__ __forceinline__ u32 get_y() const { return __builtin_amdgcn_workitem_id_y(); }
    __device__ __forceinline__ u32 get_z() const { return __builtin_amdgcn_workitem_id_z(); }
};
struct BlockIndex {
    __declspec(property(get = get_x)) u32 x;
    __declspec(property(get = get_y)) u32 y;
    __declspec(property(get = get_z)) u32 z;
    __device__ __forceinline__ u32 get_x() const { return __builtin_amdgcn_workgroup_id_x(); }
    __device__ __forceinline__ u32 get_y() const { return __builtin_amdgcn_workgroup_id_y(); }
    __device__ __forceinline__ u32 get_z() const { return __builtin_amdgcn_workgroup_id_z(); }
};
struct BlockSize {
    __declspec(property(get = get_x)) u32 x;
    __declspec(property(get = get_y)) u32 y;
    __declspec(property(get = get_z)) u32 z;
    __device__ __forceinline__ u32 get_x() const { return __builtin_amdgcn_workgroup_size_x(); }
    __device__ __forceinline__ u32 get_y() const { return __builtin_amdgcn_workgroup_size_y(); }
    __device__ __forceinline__ u32 get_z() const { return __builtin_amdgcn_workgroup_size_z(); }
};
struct GridSize {
    __declspec(property(get = get_x)) u32 x;
    __declspec(property(get = get_y)) u32 y;
    __declspec(property(get = get_z)) u32 z;
    __device__ __forceinline__ u32 get_x() const { return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(); }
    __device__ __forceinline__ u32 get_y() const { return __builtin_amdgcn_grid_size_y() / __builtin_amdgcn_workgroup_size_y(); }
    __device__ __forceinline__ u32 get_z() const { return __builtin_amdgcn_grid_size_z() / __builtin_amdgcn_workgroup_size_z(); }
};
extern const __device__ ThreadIndex threadIdx;
extern const __device__ BlockIndex blockIdx;
extern const __device__ BlockSize blockDim;
extern const __device__ GridSize gridDim;

// Of the wave's 64.
__device__ __forceinline__ u32 lane_number() {
    return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0));
}

// All waves of the workgroup arrive; what they wrote before is seen after. The wait for LDS (lgkmcnt 0) is said aloud,
// because the compiler drops that of the fence from a barrier at the head of a loop whose body ends with writes.
__device__ __forceinline__ void __syncthreads() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_waitcnt(0xc07f);
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

__device__ __forceinline__ void __threadfence() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }

__device__ __forceinline__ u32 __float_as_uint(float v) { return __builtin_bit_cast(u32, v); }
__device__ __forceinline__ int __float_as_int(float v) { return __builtin_bit_cast(int, v); }
__device__ __forceinline__ float __uint_as_float(u32 v) { return __builtin_bit_cast(float, v); }
__device__ __forceinline__ float __int_as_float(int v) { return __builtin_bit_cast(float, v); }
__device__ __forceinline__ i64 __double_as_longlong(double v) { return __builtin_bit_cast(i64, v); }
__device__ __forceinline__ double __longlong_as_double(i64 v) { return __builtin_bit_cast(double, v); }
__device__ __forceinline__ u32 __umulhi(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
__device__ __forceinline__ u64 __umul64hi(u64 a, u64 b) { return (u64)(((unsigned __int128)a * b) >> 64); }
__device__ __forceinline__ int __clz(u32 v) { return v ? __builtin_clz(v) : 32; }
__device__ __forceinline__ int __popc(u32 v) { return __builtin_popcount(v); }
__device__ __forceinline__ u32 min(u32 a, u32 b) { return a < b ? a : b; }
__device__ __forceinline__ int min(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ u32 max(u32 a, u32 b) { return a > b ? a : b; }
__device__ __forceinline__ int max(int a, int b) { return a > b ? a : b; }
