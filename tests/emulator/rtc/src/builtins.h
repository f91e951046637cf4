// Names that AMD's run-time compiler declares ahead of every text, as its headers type them: a text that declares the same
// names at file scope does not compile.
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...) __attribute__((amdgpu_flat_work_group_size(1, 1024)))

struct __hip_builtin_index { unsigned int x, y, z; };
extern const __device__ __attribute__((weak)) __hip_builtin_index threadIdx, blockIdx, blockDim, gridDim;
extern "C" __device__ __attribute__((noreturn)) void abort();
static __device__ inline __attribute__((always_inline)) unsigned int __float_as_uint(float v) { return __builtin_bit_cast(unsigned int, v); }
static __device__ inline __attribute__((always_inline)) float __uint_as_float(unsigned int v) { return __builtin_bit_cast(float, v); }
static __device__ inline __attribute__((always_inline)) unsigned int __umulhi(unsigned int a, unsigned int b) { return (unsigned int)((unsigned long long)a * b >> 32); }
static __device__ inline __attribute__((always_inline)) void __syncthreads() { __builtin_amdgcn_s_barrier(); }
static __device__ inline __attribute__((always_inline)) void __threadfence() { __builtin_amdgcn_fence(5, "agent"); }
static __device__ inline __attribute__((always_inline)) int min(int a, int b) { return a < b ? a : b; }
static __device__ inline __attribute__((always_inline)) int max(int a, int b) { return a > b ? a : b; }
struct __half { unsigned short bits; };
typedef __half half;
#line 1
