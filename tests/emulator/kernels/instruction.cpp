// One instruction a kernel, on registers that hold a[lane], b[lane] and c[lane].
#include "device.hpp"

using f32 = float;
using f64 = double;

#define ONE(name, T, R, text) \
    KERNEL(64) void name(const GLOBAL T* a, const GLOBAL T*, const GLOBAL T*, GLOBAL R* y) { \
        R r = {}; \
        asm volatile("s_nop 1\n" text : "+v"(r) : "v"(a[lane()])); \
        y[lane()] = r; \
    }
#define TWO(name, T, R, text) \
    KERNEL(64) void name(const GLOBAL T* a, const GLOBAL T* b, const GLOBAL T*, GLOBAL R* y) { \
        R r = {}; \
        asm volatile("s_nop 1\n" text : "+v"(r) : "v"(a[lane()]), "v"(b[lane()])); \
        y[lane()] = r; \
    }
#define THREE(name, T, R, text) \
    KERNEL(64) void name(const GLOBAL T* a, const GLOBAL T* b, const GLOBAL T* c, GLOBAL R* y) { \
        R r = {}; \
        asm volatile("s_nop 1\n" text : "+v"(r) : "v"(a[lane()]), "v"(b[lane()]), "v"(c[lane()]) : "vcc"); \
        y[lane()] = r; \
    }

THREE(perm, u32, u32, "v_perm_b32 %0, %1, %2, %3")
THREE(bfe_u, u32, u32, "v_bfe_u32 %0, %1, %2, %3")
THREE(bfe_i, u32, u32, "v_bfe_i32 %0, %1, %2, %3")
THREE(bfi, u32, u32, "v_bfi_b32 %0, %1, %2, %3")
THREE(alignbit, u32, u32, "v_alignbit_b32 %0, %1, %2, %3")
THREE(alignbyte, u32, u32, "v_alignbyte_b32 %0, %1, %2, %3")
THREE(mad_u24, u32, u32, "v_mad_u32_u24 %0, %1, %2, %3")
THREE(mad_i24, u32, u32, "v_mad_i32_i24 %0, %1, %2, %3")
THREE(med3_i, u32, u32, "v_med3_i32 %0, %1, %2, %3")
THREE(sad_u8, u32, u32, "v_sad_u8 %0, %1, %2, %3")
THREE(xad, u32, u32, "v_xad_u32 %0, %1, %2, %3")
THREE(lshl_or, u32, u32, "v_lshl_or_b32 %0, %1, %2, %3")
THREE(dot4, u32, u32, "v_dot4_i32_i8 %0, %1, %2, %3")
THREE(pk_mad_u16, u32, u32, "v_pk_mad_u16 %0, %1, %2, %3 op_sel:[1,0,0] op_sel_hi:[0,1,1]")
THREE(fma, u32, u32, "v_fma_f32 %0, -%1, |%2|, %3")
THREE(fma_doubled, u32, u32, "v_fma_f32 %0, %1, %2, %3 mul:2")
THREE(med3_f, u32, u32, "v_med3_f32 %0, %1, %2, %3")
THREE(mix, u32, u32, "v_fma_mix_f32 %0, %1, %2, %3 op_sel:[1,0,0] op_sel_hi:[1,1,0]")
TWO(mul_hi_u, u32, u32, "v_mul_hi_u32 %0, %1, %2")
TWO(mul_hi_i, u32, u32, "v_mul_hi_i32 %0, %1, %2")
TWO(ashr, u32, u32, "v_ashrrev_i32 %0, %1, %2")
TWO(bcnt, u32, u32, "v_bcnt_u32_b32 %0, %1, %2")
TWO(add_clamped, u32, u32, "v_add_f32 %0, %1, %2 clamp")
TWO(max_f, u32, u32, "v_max_f32 %0, %1, %2")
TWO(ldexp, u32, u32, "v_ldexp_f32 %0, %1, %2")
TWO(pkrtz, u32, u32, "v_cvt_pkrtz_f16_f32 %0, %1, %2")
TWO(pk_add_f16, u32, u32, "v_pk_add_f16 %0, %1, %2 neg_lo:[0,1]")
TWO(mul_f16, u32, u32, "v_mul_f16 %0, %1, %2")
TWO(sdwa, u32, u32, "v_add_u32_sdwa %0, %1, sext(%2) dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:WORD_1 src1_sel:BYTE_2")
TWO(sdwa_preserve, u32, u32, "v_mov_b32 %0, %1\ns_nop 1\nv_add_u16_sdwa %0, %1, %2 dst_sel:WORD_1 dst_unused:UNUSED_PRESERVE src0_sel:WORD_0 src1_sel:WORD_0")
TWO(quad_perm, u32, u32, "v_add_u32_dpp %0, %1, %2 quad_perm:[3,0,1,2] row_mask:0xf bank_mask:0xf")
TWO(row_shr, u32, u32, "v_mov_b32 %0, %2\ns_nop 4\nv_mov_b32_dpp %0, %1 row_shr:3 row_mask:0xd bank_mask:0xf")
ONE(row_bcast, u32, u32, "s_nop 4\nv_mov_b32_dpp %0, %1 row_bcast:15 row_mask:0xf bank_mask:0xf bound_ctrl:0")
ONE(swizzle, u32, u32, "ds_swizzle_b32 %0, %1 offset:swizzle(BITMASK_PERM, \"01pip\")\ns_waitcnt lgkmcnt(0)")
ONE(ffbh, u32, u32, "v_ffbh_u32 %0, %1")
ONE(bfrev, u32, u32, "v_bfrev_b32 %0, %1")
ONE(cvt_i32, u32, u32, "v_cvt_i32_f32 %0, %1")
ONE(cvt_u32, u32, u32, "v_cvt_u32_f32 %0, %1")
ONE(rndne, u32, u32, "v_rndne_f32 %0, %1")
ONE(ubyte2, u32, u32, "v_cvt_f32_ubyte2 %0, %1")
ONE(cvt_f16, u32, u32, "v_cvt_f16_f32 %0, %1")
ONE(exp, u32, u32, "v_exp_f32 %0, %1")
ONE(log, u32, u32, "v_log_f32 %0, %1")
ONE(rsq, u32, u32, "v_rsq_f32 %0, %1")
ONE(sin, u32, u32, "v_sin_f32 %0, %1")
TWO(pk_fp8, u32, u32, "v_cvt_pk_fp8_f32 %0, %1, %2 op_sel:[0,0,1]")
TWO(pk_bf8, u32, u32, "v_cvt_pk_bf8_f32 %0, %1, %2")
ONE(unpk_fp8, u32, u64, "v_cvt_pk_f32_fp8 %0, %1")
// The narrow operands of these are the low words of a and b.
KERNEL(64) void mad_u64(const GLOBAL u64* a, const GLOBAL u64* b, const GLOBAL u64* c, GLOBAL u64* y) {
    u64 r;
    asm volatile("v_mad_u64_u32 %0, vcc, %1, %2, %3" : "=v"(r) : "v"((u32)a[lane()]), "v"((u32)b[lane()]), "v"(c[lane()]) : "vcc");
    y[lane()] = r;
}
KERNEL(64) void ashr64(const GLOBAL u64* a, const GLOBAL u64* b, const GLOBAL u64*, GLOBAL u64* y) {
    u64 r;
    asm volatile("v_ashrrev_i64 %0, %1, %2" : "=v"(r) : "v"((u32)a[lane()]), "v"(b[lane()]));
    y[lane()] = r;
}
THREE(fma64, u64, u64, "v_fma_f64 %0, %1, -%2, %3")
ONE(cvt_i32_f64, u64, u32, "v_cvt_i32_f64 %0, %1")
THREE(carry, u32, u32, "v_add_co_u32 %0, vcc, %1, %2\ns_nop 1\nv_addc_co_u32 %0, vcc, 0, %3, vcc")
THREE(select, u32, u32, "v_cmp_nlt_f32 vcc, %1, %2\ns_nop 4\nv_cndmask_b32 %0, %1, %3, vcc")
THREE(pk_fma_f32, u64, u64, "v_pk_fma_f32 %0, %1, %2, %3 op_sel:[1,0,0] op_sel_hi:[0,1,1] neg_hi:[0,0,1]")

// Denormals of single floats flushed for one multiplication.
TWO(flushed, u32, u32, "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 0\nv_mul_f32 %0, %1, %2\ns_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 3")

// A value that is the same in all lanes, in a scalar register.
static inline u32 uniform(u32 value) { return __builtin_amdgcn_readfirstlane(value); }
static inline u64 uniform(u64 value) { return uniform((u32)value) | (u64)uniform((u32)(value >> 32)) << 32; }

// Scalar instructions on a[i] and b[i] for each i; the second result is SCC.
#define SCALAR(name, T, text) \
    KERNEL(64) void name(const GLOBAL T* a, const GLOBAL T* b, const GLOBAL T*, GLOBAL T* y) { \
        for (u32 i = 0; i < 64; i++) { \
            T r; \
            u32 condition; \
            asm volatile(text "\ns_cselect_b32 %1, 1, 0" : "=&s"(r), "=&s"(condition) : "s"(uniform(a[i])), "s"(uniform(b[i])) : "scc"); \
            y[2 * i] = r, y[2 * i + 1] = condition; \
        } \
    }
SCALAR(s_bfe_i, u32, "s_bfe_i32 %0, %2, %3")
SCALAR(s_addc, u32, "s_add_u32 %0, %2, %3\ns_addc_u32 %0, %2, %3")
SCALAR(s_sub_i, u32, "s_sub_i32 %0, %2, %3")
SCALAR(s_lshl2_add, u32, "s_lshl2_add_u32 %0, %2, %3")
SCALAR(s_min_i, u32, "s_min_i32 %0, %2, %3")
SCALAR(s_absdiff, u32, "s_absdiff_i32 %0, %2, %3")
SCALAR(s_andn2, u64, "s_andn2_b64 %0, %2, %3")

#if defined(__gfx950__)
TWO(pk_bf16, u32, u32, "v_cvt_pk_bf16_f32 %0, %1, %2")
THREE(scaled_fp4, u32, u32, "v_cvt_scalef32_pk_fp4_f32 %0, %1, %2, %3 op_sel:[0,0,1,0]")
TWO(scaled_from_fp8, u32, u64, "v_cvt_scalef32_pk_f32_fp8 %0, %1, %2 op_sel:[1,0,0]")
THREE(bitop3, u32, u32, "v_bitop3_b32 %0, %1, %2, %3 bitop3:0x1d")
#endif

// Divisions and roots as the compiler expands them.
#define PLAIN(name, T, expression) \
    KERNEL(64) void name(const GLOBAL T* a, const GLOBAL T* b, const GLOBAL T*, GLOBAL T* y) { \
        T x = a[lane()], z = b[lane()]; \
        y[lane()] = expression; \
    }
PLAIN(divide, f32, x / z)
PLAIN(divide_double, f64, x / z)
PLAIN(divide_unsigned, u32, z ? x / z : 0)
PLAIN(remainder_signed, i32, z && z != -1 ? x % z : 0)
PLAIN(divide_long, u64, z ? x / z : 0)

// Matrix instructions on raw registers: lane l of operand A is a[l], and so on.
#define MATRIX(name, A, C, builtin) \
    KERNEL(64) void name(const GLOBAL A* a, const GLOBAL A* b, const GLOBAL C* c, GLOBAL C* y) { \
        y[lane()] = builtin(a[lane()], b[lane()], c[lane()], 0, 0, 0); \
    }
using f4 = vec<float, 4>;
using f16x = vec<float, 16>;
using f32x = vec<float, 32>;
using half4 = vec<f16, 4>;
MATRIX(mfma_f32_32x32x2, float, f16x, __builtin_amdgcn_mfma_f32_32x32x2f32)
MATRIX(mfma_f32_16x16x4, float, f4, __builtin_amdgcn_mfma_f32_16x16x4f32)
MATRIX(mfma_f32_16x16x1_4b, float, f16x, __builtin_amdgcn_mfma_f32_16x16x1f32)
MATRIX(mfma_f32_4x4x1_16b, float, f4, __builtin_amdgcn_mfma_f32_4x4x1f32)
MATRIX(mfma_f16_32x32x4_2b, half4, f32x, __builtin_amdgcn_mfma_f32_32x32x4f16)
MATRIX(mfma_f16_16x16x16, half4, f4, __builtin_amdgcn_mfma_f32_16x16x16f16)
MATRIX(mfma_fp8_32x32x16, i64, f16x, __builtin_amdgcn_mfma_f32_32x32x16_fp8_bf8)
MATRIX(mfma_fp8_16x16x32, i64, f4, __builtin_amdgcn_mfma_f32_16x16x32_bf8_fp8)
using i4 = vec<int, 4>;
using i16x = vec<int, 16>;
MATRIX(mfma_i8_32x32x16, i64, i16x, __builtin_amdgcn_mfma_i32_32x32x16_i8)
MATRIX(mfma_i8_16x16x32, i64, i4, __builtin_amdgcn_mfma_i32_16x16x32_i8)
using d4 = vec<double, 4>;
MATRIX(mfma_f64_16x16x4, double, d4, __builtin_amdgcn_mfma_f64_16x16x4f64)
MATRIX(mfma_f64_4x4x4, double, double, __builtin_amdgcn_mfma_f64_4x4x4f64)
