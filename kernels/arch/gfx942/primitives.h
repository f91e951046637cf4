//! CDNA3's instructions that C++ does not name: matrix products. It has no loads of 16 bytes
//! straight into LDS and no transposed LDS reads. Behind
//! `../cdna/primitives.h`; the same names as in `gfx950/primitives.h`, so that main loops serve both.

// ---- Matrix products --------------------------------------------------------------------------------------------

/// D += A B on one wave, A and B of SIZE rows and columns. An operand comes in pieces of 16 bytes a lane: row or column
/// lane % SIZE, and of its bytes along K the piece lane / SIZE. `kPieces` of them make one product; `Acc` holds for
/// column lane % SIZE the rows 8 (r / 4) + 4 (lane / SIZE) + r % 4 (SIZE 16: r < 4).
template <class Element, u32 SIZE> struct Mma;

/// Two products of half a piece each; which k an element has is the same for A and B.
#define MMA_TWO(ELEMENT, SIZE, SUM, BUILTIN, OPERAND)                                                         \
    template <> struct Mma<ELEMENT, SIZE> {                                                                   \
        typedef vec<SUM, SIZE * SIZE / 64> Acc;                                                               \
        static constexpr u32 kPieces = 1;                                                                     \
        static __device__ __forceinline__ OPERAND half_of(const u32x4& p, u32 i) {                            \
            const u32x2 words = {p[2 * i], p[2 * i + 1]};                                                     \
            return __builtin_bit_cast(OPERAND, words);                                                        \
        }                                                                                                     \
        static __device__ __forceinline__ void run(Acc& d, const u32x4* a, const u32x4* b) {                  \
            _Pragma("unroll") for (u32 i = 0; i < 2; i++) d = BUILTIN(half_of(*a, i), half_of(*b, i), d, 0, 0, 0); \
        }                                                                                                     \
    };
typedef vec<short, 4> bf16x4;
typedef vec<half, 4> f16x4;
MMA_TWO(BF16, 16, float, __builtin_amdgcn_mfma_f32_16x16x16bf16_1k, bf16x4)
MMA_TWO(BF16, 32, float, __builtin_amdgcn_mfma_f32_32x32x8bf16_1k, bf16x4)
MMA_TWO(F16, 16, float, __builtin_amdgcn_mfma_f32_16x16x16f16, f16x4)
MMA_TWO(F16, 32, float, __builtin_amdgcn_mfma_f32_32x32x8f16, f16x4)
MMA_TWO(S8, 16, i32, __builtin_amdgcn_mfma_i32_16x16x32_i8, long)
MMA_TWO(S8, 32, i32, __builtin_amdgcn_mfma_i32_32x32x16_i8, long)
MMA_TWO(E4M3, 16, float, __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8, long)
MMA_TWO(E4M3, 32, float, __builtin_amdgcn_mfma_f32_32x32x16_fp8_fp8, long)

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

/// The matrix units take E4M3 in the FNUZ encoding, where the same bits mean half as much, 0x80 is NaN, and 0x7f and 0xff
/// are numbers. Sums of products of converted bytes are a quarter of what they should be.
constexpr float kE4M3Scale = 4.f;
/// From ONNX's FLOAT8E4M3FN, exactly: -0 to 0, NaN to NaN.
DEVICE u32x4 to_native_e4m3(u32x4 bytes) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 magnitude = bytes[i] & 0x7f7f7f7f;
        const u32 unsigned_zeros = bytes[i] & (magnitude + 0x7f7f7f7f | 0x7f7f7f7f);
        const u32 nan = magnitude + 0x01010101 & 0x80808080;
        bytes[i] = (unsigned_zeros & ~(nan - (nan >> 7))) | nan;
    }
    return bytes;
}

constexpr bool kHasDirectLoads = false;
