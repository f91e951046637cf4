//! CDNA4's instructions that C++ does not name: matrix products, loads straight into LDS, transposed LDS reads. Behind
//! `../cdna/primitives.h`; the same names as in `gfx942/primitives.h`, so that main loops serve both.

// ---- Matrix products --------------------------------------------------------------------------------------------

/// D += A B on one wave, A and B of SIZE rows and columns. An operand comes in pieces of 16 bytes a lane: row or column
/// lane % SIZE, and of its bytes along K the piece lane / SIZE. `kPieces` of them make one product; `Acc` holds for
/// column lane % SIZE the rows 8 (r / 4) + 4 (lane / SIZE) + r % 4 (SIZE 16: r < 4).
template <class Element, u32 SIZE> struct Mma;

#define MMA_ONE(ELEMENT, SIZE, SUM, BUILTIN, OPERAND)                                             \
    template <> struct Mma<ELEMENT, SIZE> {                                                       \
        typedef vec<SUM, SIZE * SIZE / 64> Acc;                                                   \
        static constexpr u32 kPieces = 1;                                                         \
        static __device__ __forceinline__ void run(Acc& d, const u32x4* a, const u32x4* b) {      \
            d = BUILTIN(__builtin_bit_cast(OPERAND, *a), __builtin_bit_cast(OPERAND, *b), d, 0, 0, 0); \
        }                                                                                         \
    };
typedef vec<bfloat, 8> bf16x8;
typedef vec<half, 8> f16x8;
MMA_ONE(BF16, 16, float, __builtin_amdgcn_mfma_f32_16x16x32_bf16, bf16x8)
MMA_ONE(BF16, 32, float, __builtin_amdgcn_mfma_f32_32x32x16_bf16, bf16x8)
MMA_ONE(F16, 16, float, __builtin_amdgcn_mfma_f32_16x16x32_f16, f16x8)
MMA_ONE(F16, 32, float, __builtin_amdgcn_mfma_f32_32x32x16_f16, f16x8)
MMA_ONE(S8, 16, i32, __builtin_amdgcn_mfma_i32_16x16x64_i8, i32x4)
MMA_ONE(S8, 32, i32, __builtin_amdgcn_mfma_i32_32x32x32_i8, i32x4)

/// Four products with one element a lane each; which k an element has is the same for A and B.
#define MMA_F32(SIZE, BUILTIN)                                                                    \
    template <> struct Mma<F32, SIZE> {                                                           \
        typedef vec<float, SIZE * SIZE / 64> Acc;                                                 \
        static constexpr u32 kPieces = 1;                                                         \
        static __device__ __forceinline__ void run(Acc& d, const u32x4* a, const u32x4* b) {      \
            const f32x4 x = __builtin_bit_cast(f32x4, *a), y = __builtin_bit_cast(f32x4, *b);     \
            _Pragma("unroll") for (u32 i = 0; i < 4; i++) d = BUILTIN(x[i], y[i], d, 0, 0, 0);    \
        }                                                                                         \
    };
MMA_F32(16, __builtin_amdgcn_mfma_f32_16x16x4f32)
MMA_F32(32, __builtin_amdgcn_mfma_f32_32x32x2f32)

/// OCP E4M3. Two pieces of each operand: K in two runs, as the instruction takes it.
#define MMA_E4M3(SIZE, BUILTIN)                                                                   \
    template <> struct Mma<E4M3, SIZE> {                                                          \
        typedef vec<float, SIZE * SIZE / 64> Acc;                                                 \
        static constexpr u32 kPieces = 2;                                                         \
        static __device__ __forceinline__ i32x8 join(const u32x4* p) {                            \
            return __builtin_bit_cast(i32x8, __builtin_shufflevector(p[0], p[1], 0, 1, 2, 3, 4, 5, 6, 7)); \
        }                                                                                         \
        static __device__ __forceinline__ void run(Acc& d, const u32x4* a, const u32x4* b) {      \
            d = BUILTIN(join(a), join(b), d, 0, 0, 0, 0, 0, 0);                                   \
        }                                                                                         \
    };
MMA_E4M3(16, __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4)
MMA_E4M3(32, __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4)

/// Operands with E8M0 scales: a lane gives in one byte of a word the scale of its row or column lane % 16 and of K's block
/// lane / 16. The number of the byte is part of the instruction: it must be known where calls are unrolled.
#define MMA_BLOCKS(ELEMENT, PIECES, FORMAT, JOIN)                                                 \
    template <> struct Mma<ELEMENT, 16> {                                                         \
        typedef f32x4 Acc;                                                                        \
        static constexpr u32 kPieces = PIECES;                                                    \
        template <u32 A_BYTE, u32 B_BYTE>                                                         \
        static __device__ __forceinline__ void issue(Acc& d, i32x8 a, i32x8 b, u32 a_scales, u32 b_scales) { \
            d = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(a, b, d, FORMAT, FORMAT, A_BYTE, a_scales, B_BYTE, b_scales); \
        }                                                                                         \
        template <u32 I = 0>                                                                      \
        static __device__ __forceinline__ void pick(Acc& d, i32x8 a, i32x8 b, u32 a_scales, u32 b_scales, u32 which) { \
            if (which == I) issue<I / 4, I % 4>(d, a, b, a_scales, b_scales);                     \
            else if constexpr (I < 15) pick<I + 1>(d, a, b, a_scales, b_scales, which);           \
        }                                                                                         \
        static __device__ __forceinline__ i32x8 join(const u32x4* p) { return __builtin_bit_cast(i32x8, JOIN); } \
        static __device__ __forceinline__ void run_scaled(Acc& d, const u32x4* a, const u32x4* b, u32 a_scales, u32 a_byte, \
                                                          u32 b_scales, u32 b_byte) {             \
            pick(d, join(a), join(b), a_scales, b_scales, a_byte * 4 + b_byte);                   \
        }                                                                                         \
    };
MMA_BLOCKS(MXFP8, 2, 0, __builtin_shufflevector(p[0], p[1], 0, 1, 2, 3, 4, 5, 6, 7))
MMA_BLOCKS(MXFP4, 1, 4, __builtin_shufflevector(p[0], p[0], 0, 1, 2, 3, -1, -1, -1, -1))

/// What the matrix units take as E4M3 is what ONNX calls FLOAT8E4M3FN: bytes go in as they are.
constexpr float kE4M3Scale = 1.f;
DEVICE u32x4 to_native_e4m3(u32x4 bytes) { return bytes; }

// ---- Loads into LDS, LDS reads ----------------------------------------------------------------------------------

constexpr bool kHasDirectLoads = true;

/// Starts 16 bytes a lane from `descriptor` + `offset` into LDS at `base` + `kAt` + 16 lane; counts one in vmcnt, which
/// the compiler does not know.
template <u32 kAt> DEVICE void load_to_lds(u32x4 descriptor, u32 offset, u32 base) {
    asm volatile("s_add_u32 m0, %2, %3\n\ts_nop 0\n\tbuffer_load_dwordx4 %0, %1, 0 offen lds"
                 :: "v"(offset), "s"(descriptor), "s"(base), "i"(kAt) : "memory", "scc");
}

/// For four 16-bit elements: of each 16 lanes' 16 x 16 tile, whose rows the addresses name by quarters, column lane % 16.
DEVICE u32x2 lds_read_transposed16(Lds p) {
    typedef vec<short, 4> s16x4;
    return __builtin_bit_cast(u32x2, __builtin_amdgcn_ds_read_tr16_b64_v4i16((LOCAL s16x4*)p));
}
/// For eight 8-bit elements: of each 16 lanes' 8 x 16 tile, whose rows the addresses name by halves, column lane % 16.
DEVICE u32x2 lds_read_transposed8(Lds p) {
    typedef vec<i32, 2> i32x2;
    return __builtin_bit_cast(u32x2, __builtin_amdgcn_ds_read_tr8_b64_v2i32((LOCAL i32x2*)p));
}

/// Of every 32 lanes, `a` of the upper 16 and `b` of the lower 16 change places.
DEVICE void swap_rows(u32& a, u32& b) {
    const auto pair = __builtin_amdgcn_permlane16_swap(a, b, false, false);
    a = pair[0], b = pair[1];
}
