//! Instructions that Ampere and every later GPU of the vendor has, as functions: conversions, approximate arithmetic,
//! asynchronous copies, matrix loads, warp matrix products.
//!
//! Inline assembly lives in this file and in the families' own primitives. It includes nothing, so that it compiles
//! without any header.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef int i32;
typedef long long i64;

#define DEVICE __device__ __forceinline__

// ---- Element types -----------------------------------------------------------------------------------------------

/// Tags that name what an operand's bits mean; storage is an unsigned integer of the same size.
struct F32 { typedef float Bits; };
struct TF32 { typedef float Bits; };
struct F16 { typedef u16 Bits; };
struct BF16 { typedef u16 Bits; };
struct S8 { typedef i8 Bits; };

DEVICE u32 pack_bf16(float low, float high) {
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
DEVICE u32 pack_f16(float low, float high) {
    u32 bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
DEVICE float bf16_low(u32 bits) { return __uint_as_float(bits << 16); }
DEVICE float bf16_high(u32 bits) { return __uint_as_float(bits & 0xffff0000u); }
DEVICE float f16_low(u32 bits) {
    float value;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(value) : "r"(bits));
    return value;
}
DEVICE float f16_high(u32 bits) {
    float value;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(value) : "r"(bits));
    return value;
}
/// Two f32 as two 16-bit floats of type T, the first in the low half; and back.
template <class T> DEVICE u32 pack2(float low, float high);
template <> DEVICE u32 pack2<BF16>(float low, float high) { return pack_bf16(low, high); }
template <> DEVICE u32 pack2<F16>(float low, float high) { return pack_f16(low, high); }
template <class T> DEVICE float low2(u32 bits);
template <> DEVICE float low2<BF16>(u32 bits) { return bf16_low(bits); }
template <> DEVICE float low2<F16>(u32 bits) { return f16_low(bits); }
template <class T> DEVICE float high2(u32 bits);
template <> DEVICE float high2<BF16>(u32 bits) { return bf16_high(bits); }
template <> DEVICE float high2<F16>(u32 bits) { return f16_high(bits); }
/// a b + c on pairs of 16-bit floats, rounded once.
template <class T> DEVICE u32 fma2(u32 a, u32 b, u32 c);
template <> DEVICE u32 fma2<BF16>(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
template <> DEVICE u32 fma2<F16>(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
/// (a & kMask) | bits in one instruction: the compiler would keep both as immediates and need two.
template <u32 kMask> DEVICE u32 and_or(u32 a, u32 bits) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "n"(kMask), "r"(bits));
    return d;
}
/// Bytes of a (numbers 0 to 3) and b (4 to 7) that the hexadecimal digits of `select` choose.
DEVICE u32 permute_bytes(u32 a, u32 b, u32 select) { return __byte_perm(a, b, select); }

// ---- Arithmetic --------------------------------------------------------------------------------------------------

/// 2 to the power x; flushes subnormal results.
DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float rcp_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float tanh_approx(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- Threads -----------------------------------------------------------------------------------------------------

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }
/// Memory accesses are not moved across it by the compiler.
DEVICE void compiler_fence() { asm volatile("" ::: "memory"); }

/// Named barrier among `kThreads` threads; ids 1 to 15 (0 is __syncthreads).
template <int kId, int kThreads> DEVICE void named_barrier() {
    asm volatile("bar.sync %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}
template <int kId, int kThreads> DEVICE void named_barrier_arrive() {
    asm volatile("bar.arrive %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}

// ---- Asynchronous copies and streaming loads ---------------------------------------------------------------------

/// Copies 16 bytes from global to shared memory, or writes zeros where `valid` is false.
DEVICE void copy16(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
/// The same at a shared address, of the first `bytes` of 16; the rest are zeros.
DEVICE void copy16_part(u32 shared, const void* global, u32 bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
/// All 16, and a hint that the rest of the 128 bytes follows.
DEVICE void copy16_whole(u32 shared, const void* global) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory"); }
/// 16 bytes that are read once: not kept in the first-level cache.
DEVICE uint4 load_streaming(const void* global) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
    return v;
}

/// A load that later reads of what its writer released before cannot overtake.
DEVICE u32 load_acquire(const u32* global) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(global) : "memory");
    return value;
}

// ---- Matrix loads ------------------------------------------------------------------------------------------------

/// Four 8x8 matrices of 16-bit elements: lanes 8i..8i+7 hold the addresses of the rows of matrix i, and lane l receives
/// columns 2(l%4) and 2(l%4)+1 of row l/4 of every matrix.
DEVICE void matrix_load4(u32 (&v)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(address)
                 : "memory");
}
/// The same, each matrix transposed on the way: lane l receives rows 2(l%4) and 2(l%4)+1 of column l/4.
DEVICE void matrix_load4_transposed(u32 (&v)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(address)
                 : "memory");
}

/// Byte offset inside a swizzled tile whose rows are `kRowBytes` (32, 64 or 128) long and whose base is aligned to 1024:
/// the 16-byte piece's number is xored with the number of the 128-byte line modulo 2, 4 or 8.
template <int kRowBytes> DEVICE u32 swizzled(u32 row, u32 byte) {
    constexpr u32 kMask = kRowBytes == 128 ? 7 : kRowBytes == 64 ? 3 : 1;
    const u32 offset = row * kRowBytes + byte;
    return offset ^ (((offset >> 7) & kMask) << 4);
}

// ---- Warp matrix products ----------------------------------------------------------------------------------------

/// D[16, 8] += A[16, K] B[K, 8] on a warp, K of 32 bytes. In units of 4 bytes along K, A: rows lane/4 (+8 in a[1], a[3]),
/// unit lane%4 (+4 in a[2], a[3]); B: unit lane%4 (+4 in b1), column lane/4; D: row lane/4 (+8 in d[2], d[3]), columns
/// 2(lane%4) + {0,1}.
template <class T> DEVICE void warp_mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> DEVICE void warp_mma<BF16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> DEVICE void warp_mma<F16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// The same into fresh sums: D = A B.
template <class T> DEVICE void warp_mma_first(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> DEVICE void warp_mma_first<BF16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%10, %10, %10, %10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}
template <> DEVICE void warp_mma_first<F16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%10, %10, %10, %10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}
