// What the test kernels share: types, address spaces, workgroup helpers. Freestanding C++ for clang's AMDGPU target.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long;
using i32 = int;
using i64 = long;
using bf16 = __bf16;
using f16 = _Float16;

template <typename T, int N> using vec = T __attribute__((ext_vector_type(N)));

#define GLOBAL __attribute__((address_space(1)))
#define LOCAL __attribute__((address_space(3)))
#define SHARED [[clang::loader_uninitialized]] static LOCAL
#define KERNEL(threads) extern "C" __attribute__((amdgpu_kernel, amdgpu_flat_work_group_size(threads, threads)))

static inline u32 thread() { return __builtin_amdgcn_workitem_id_x(); }
static inline u32 lane() { return thread() & 63; }
static inline u32 wave() { return __builtin_amdgcn_readfirstlane(thread() >> 6); }
static inline u32 group_x() { return __builtin_amdgcn_workgroup_id_x(); }
static inline u32 group_y() { return __builtin_amdgcn_workgroup_id_y(); }

// All waves of the workgroup, with LDS written before visible after.
static inline void barrier() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

// The value of another lane of the wave.
static inline float from_lane(float value, u32 other) {
    return __builtin_bit_cast(float, __builtin_amdgcn_ds_bpermute(other << 2, __builtin_bit_cast(int, value)));
}

static inline float wave_max(float value) {
    for (u32 step = 32; step; step >>= 1) value = __builtin_fmaxf(value, from_lane(value, lane() ^ step));
    return value;
}

static inline float wave_sum(float value) {
    for (u32 step = 32; step; step >>= 1) value += from_lane(value, lane() ^ step);
    return value;
}

// Sum or maximum over a workgroup of four waves; `partial` holds four floats that nothing else uses.
template <bool SUM> static inline float group_reduce(float value, LOCAL float* partial) {
    value = SUM ? wave_sum(value) : wave_max(value);
    if (lane() == 0) partial[wave()] = value;
    barrier();
    float result = partial[0];
    for (int i = 1; i < 4; i++) result = SUM ? result + partial[i] : __builtin_fmaxf(result, partial[i]);
    return result;
}
