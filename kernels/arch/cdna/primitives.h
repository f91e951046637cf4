//! Builtins that CDNA3 and CDNA4 share: memory through buffer descriptors, waits, priorities, the order of instructions,
//! conversions. A family's own `primitives.h` follows: matrix products, loads straight into LDS, transposed LDS reads.

#define MEMBER __device__ __forceinline__
#define LOCAL __attribute__((address_space(3)))
#define GLOBAL __attribute__((address_space(1)))

typedef vec<u32, 4> u32x4;
typedef vec<u32, 2> u32x2;
typedef vec<float, 4> f32x4;
typedef vec<i32, 4> i32x4;
typedef vec<i32, 8> i32x8;
typedef LOCAL u8* Lds;

// ---- Element types of matrix products ---------------------------------------------------------------------------

struct BF16 { typedef u16 Bits; };
struct F16 { typedef u16 Bits; };
struct F32 { typedef float Bits; };
struct E4M3 { typedef u8 Bits; };
struct S8 { typedef i8 Bits; };
/// With a scale for each 32 along K: E4M3, and E2M1, of which a byte holds two.
struct MXFP8 { typedef u8 Bits; };
struct MXFP4 { typedef u8 Bits; };
struct I32 { typedef i32 Bits; };

/// The value of the first lane, for what is the same in all of them.
DEVICE u32 uniform(u32 v) { return (u32)__builtin_amdgcn_readfirstlane((i32)v); }
/// The same in a scalar register, where the compiler keeps what follows from it. The pause is what memory instructions of
/// inline assembly, which the compiler does not know, need before they read such a register.
DEVICE u32 scalar(u32 v) {
    u32 same;
    asm("v_readfirstlane_b32 %0, %1\n\ts_nop 4" : "=s"(same) : "v"(v));
    return same;
}

// ---- Memory -----------------------------------------------------------------------------------------------------

/// A descriptor of `records` bytes from `base`, both the same in all lanes: reads behind them give 0.
DEVICE u32x4 buffer_descriptor(u64 base, u32 records) {
    return (u32x4){uniform((u32)base), uniform((u32)(base >> 32) & 0xffff), uniform(records), 0x00027000};
}
DEVICE u32x4 buffer_descriptor(const void* base, u32 records) { return buffer_descriptor((u64)base, records); }

/// A buffer as the compiler knows it; both arguments the same in all lanes. What lies behind `bytes` is not written.
typedef __amdgpu_buffer_rsrc_t Buffer;
DEVICE Buffer buffer_of(const void* base, u32 bytes) {
    const u64 address = (u64)base;
    const u64 same = (u64)uniform((u32)address) | (u64)uniform((u32)(address >> 32)) << 32;
    return __builtin_amdgcn_make_buffer_rsrc((void*)same, 0, uniform(bytes), 0x00027000);
}
DEVICE Buffer buffer_of(u32x4 descriptor) {
    return __builtin_amdgcn_make_buffer_rsrc((void*)((u64)descriptor.x | (u64)descriptor.y << 32), 0, descriptor.z, 0x00027000);
}
/// Offsets in bytes; those of whole words may be of any alignment.
DEVICE u32x4 buffer_load16(Buffer buffer, u32 offset) { return __builtin_amdgcn_raw_buffer_load_b128(buffer, offset, 0, 0); }
/// `WORDS` words a lane.
template <u32 WORDS> DEVICE void buffer_load(u32 (&words)[WORDS], Buffer buffer, u32 offset) {
    if constexpr (WORDS == 4) {
        const u32x4 v = __builtin_amdgcn_raw_buffer_load_b128(buffer, offset, 0, 0);
        words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else if constexpr (WORDS == 2) {
        const u32x2 v = __builtin_amdgcn_raw_buffer_load_b64(buffer, offset, 0, 0);
        words[0] = v.x, words[1] = v.y;
    } else {
        words[0] = __builtin_amdgcn_raw_buffer_load_b32(buffer, offset, 0, 0);
    }
}
DEVICE u32 buffer_load4(Buffer buffer, u32 offset) { return __builtin_amdgcn_raw_buffer_load_b32(buffer, offset, 0, 0); }
DEVICE u16 buffer_load2(Buffer buffer, u32 offset) { return __builtin_amdgcn_raw_buffer_load_b16(buffer, offset, 0, 0); }
DEVICE void buffer_store16(Buffer buffer, u32 offset, u32x4 v) { __builtin_amdgcn_raw_buffer_store_b128(v, buffer, offset, 0, 0); }
DEVICE void buffer_store4(Buffer buffer, u32 offset, u32 v) { __builtin_amdgcn_raw_buffer_store_b32(v, buffer, offset, 0, 0); }
DEVICE void buffer_store2(Buffer buffer, u32 offset, u16 v) { __builtin_amdgcn_raw_buffer_store_b16(v, buffer, offset, 0, 0); }

/// Starts 4 bytes a lane from `descriptor` + `offset` straight into LDS at `base` + `kAt` + 4 lane; counts one in vmcnt, which
/// the compiler does not know.
template <u32 kAt> DEVICE void load4_to_lds(u32x4 descriptor, u32 offset, u32 base) {
    asm volatile("s_add_u32 m0, %2, %3\n\ts_nop 0\n\tbuffer_load_dword %0, %1, 0 offen lds"
                 :: "v"(offset), "s"(descriptor), "s"(base), "i"(kAt) : "memory", "scc");
}

/// LDS address of `p` for a wave.
DEVICE u32 lds_address(Lds p) { return __builtin_amdgcn_readfirstlane((u32)(unsigned long)p); }

// ---- Order ------------------------------------------------------------------------------------------------------

/// At most `kCount` loads of the wave are outstanding, those straight into LDS included.
template <u32 kCount> DEVICE void wait_loads() { asm volatile("s_waitcnt vmcnt(%0)" :: "i"(kCount) : "memory"); }
/// The wave's LDS reads and writes have finished.
DEVICE void wait_lds() { __builtin_amdgcn_s_waitcnt(0xc07f); }
/// Nothing is moved across by the compiler.
DEVICE void order() {
    asm volatile("" ::: "memory");
    __builtin_amdgcn_sched_barrier(0);
}
/// Instructions are scheduled apart before and after it; memory is not ordered.
DEVICE void part_schedule() { __builtin_amdgcn_sched_barrier(0); }
/// All waves of the workgroup arrive; nothing is waited for but them.
DEVICE void wave_barrier() {
    order();
    __builtin_amdgcn_s_barrier();
    order();
}
/// All waves arrive, their LDS reads and writes finished.
DEVICE void lds_barrier() {
    order();
    wait_lds();
    wave_barrier();
}
template <u32 kPriority> DEVICE void priority() { __builtin_amdgcn_s_setprio(kPriority); }

/// Kinds of instructions for `interleave`.
constexpr u32 kGroupMma = 8, kGroupLoad = 32, kGroupLdsRead = 256, kGroupLdsWrite = 512;
/// The scheduler places `kCount` instructions of `kKind` next.
template <u32 kKind, u32 kCount> DEVICE void interleave() { __builtin_amdgcn_sched_group_barrier(kKind, kCount, 0); }

// ---- Values -----------------------------------------------------------------------------------------------------

DEVICE u32 lane_id() { return threadIdx.x & 63; }
DEVICE u32 wave_id() { return uniform(threadIdx.x >> 6); }
DEVICE float rcp_approx(float v) { return __builtin_amdgcn_rcpf(v); }
DEVICE float exp2_approx(float v) { return __builtin_amdgcn_exp2f(v); }

/// The low (`high` 0) or high halves of two words, the first one's low.
DEVICE u32 pick_halves(u32 x, u32 y, bool high) { return __builtin_amdgcn_perm(y, x, high ? 0x07060302 : 0x05040100); }

/// The compiler does not compute `v` anew where it is used.
DEVICE void keep(u32& v) { asm("" : "+v"(v)); }

/// Two floats to two 16-bit elements, the first in the low half; rounded to nearest even.
template <class T> DEVICE u32 pack2(float x, float y);
template <> __device__ __forceinline__ u32 pack2<BF16>(float x, float y) {
    return __builtin_bit_cast(u32, __builtin_convertvector((vec<float, 2>){x, y}, vec<bfloat, 2>));
}
template <> __device__ __forceinline__ u32 pack2<F16>(float x, float y) {
    return __builtin_bit_cast(u32, __builtin_convertvector((vec<float, 2>){x, y}, vec<half, 2>));
}
template <class T> DEVICE float widen16(u16 v);
template <> __device__ __forceinline__ float widen16<BF16>(u16 v) { return __uint_as_float((u32)v << 16); }
template <> __device__ __forceinline__ float widen16<F16>(u16 v) { return (float)__builtin_bit_cast(half, v); }

// ---- Attention --------------------------------------------------------------------------------------------------

typedef vec<float, 2> f32x2;

/// `pack2` of 16-bit types, for texts that serve wider ones too, where it gives 0.
template <class T> DEVICE u32 pack_halves(float x, float y) {
    if constexpr (sizeof(typename T::Bits) == 2) return pack2<T>(x, y);
    return 0;
}

/// The greater value; what is not a number gives either.
DEVICE float maximum(float a, float b) { return __builtin_fmaxf(a, b); }
DEVICE float max3(float a, float b, float c) { return __builtin_fmaxf(__builtin_fmaxf(a, b), c); }
DEVICE bool any_lane(bool v) { return __builtin_amdgcn_ballot_w64(v) != 0; }
/// The value of lane l ^ 16.
DEVICE float other_quarter(float v) { return __int_as_float(__builtin_amdgcn_ds_swizzle(__float_as_int(v), 0x401f)); }
/// 8 bytes a lane.
DEVICE u32x2 buffer_load8(Buffer buffer, u32 offset) { return __builtin_amdgcn_raw_buffer_load_b64(buffer, offset, 0, 0); }
/// Adds to a number that workgroups share; the number before.
DEVICE u32 add_shared(u32* at, u32 v) {
    return __hip_atomic_fetch_add(at, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

/// The same value: what is computed from it is computed where it stands, not kept in registers over a loop.
DEVICE u32 fresh(u32 v) {
    asm volatile("" : "+v"(v));
    return v;
}
