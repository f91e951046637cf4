//! Weights of 4 or 8 bits with a scale for each group of inputs, in the order in which matrix instructions read them.
//!
//! A record holds 64 outputs (rows) by 128 inputs (K); records of the same rows follow each other along K, and
//! `kernels/src/gpu/matmul/nbits.rs` writes them. For each half of 64 inputs, each 16 rows, each lane: the codes of the A
//! fragments of four m16n8k16 products, 16 bytes of 4-bit codes or 32 of 8-bit ones. Then, for each 16 rows, each lane / 4
//! and each group along K: the scales of rows lane/4 and lane/4 + 8. Then the zero points in the same order, a byte each.
//!
//! ```text
//!   4 bits: a word is one fragment      bits 4i, 4i+16: the two elements of a[i]
//!   8 bits: two words are one fragment  bytes of a[0], a[1]; then of a[2], a[3]
//! ```

constexpr u32 kSlabRows = 64, kRecordDepth = 128;
/// Bytes of codes that a warp reads for 64 inputs of 16 rows, and that a record holds.
template <int kBits> constexpr u32 kQuarterBytes = 16 * 64 * kBits / 8;
template <int kBits> constexpr u32 kCodeBytes = kSlabRows * kRecordDepth * kBits / 8;

/// What a code of zero is, minus the zero point: the number that is taken from codes made floats by setting exponent bits.
/// 16-bit floats hold it exactly.
template <class T> DEVICE u32 code_base();
template <> DEVICE u32 code_base<BF16>() { return 0x43004300u; }
template <> DEVICE u32 code_base<F16>() { return 0x64006400u; }
template <class T> DEVICE u32 ones();
template <> DEVICE u32 ones<BF16>() { return 0x3f803f80u; }
template <> DEVICE u32 ones<F16>() { return 0x3c003c00u; }

/// Zero points of the two rows of a fragment, ready to be taken from codes.
struct Zeros {
    u32 low, high;
};

constexpr bool is_exact_in_f32(int bits, bool is_bf16) { return bits == 8 && is_bf16; }
template <class T> constexpr bool kIsBf16 = false;
template <> constexpr bool kIsBf16<BF16> = true;

/// `points`: zero points of rows lane/4 (low byte) and lane/4 + 8 (next byte).
template <class T, int kBits> DEVICE Zeros zeros_of(u32 points) {
    if constexpr (is_exact_in_f32(kBits, kIsBf16<T>)) {
        return {__float_as_uint(8388608.f + (float)(points & 255)), __float_as_uint(8388608.f + (float)(points >> 8 & 255))};
    } else {
        const u32 negative = code_base<T>() | 0x80008000u;
        return {permute_bytes(points, 0, 0x4040) | negative, permute_bytes(points, 0, 0x4141) | negative};
    }
}
/// Where no zero points are given: half of the codes are negative.
template <class T, int kBits> DEVICE Zeros middle_zeros() {
    constexpr u32 kMiddle = 1 << (kBits - 1);
    return zeros_of<T, kBits>(kMiddle | kMiddle << 8);
}

/// Two bytes of `word` minus a zero point, as a pair.
template <class T> DEVICE u32 byte_pair(u32 word, u32 first, u32 zero) {
    if constexpr (kIsBf16<T>) {
        const float a = __uint_as_float(permute_bytes(word, 0x4b000000u, 0x7440 | first));
        const float b = __uint_as_float(permute_bytes(word, 0x4b000000u, 0x7440 | (first + 1)));
        return pack2<T>(a - __uint_as_float(zero), b - __uint_as_float(zero));
    } else {
        const u32 pair = permute_bytes(word, code_base<T>(), first ? 0x7372 : 0x7170);
        return fma2<T>(pair, ones<T>(), zero);
    }
}

/// The fragment of one product as codes minus zero points, exact. `codes`: one word of 4 bits, or two of 8.
template <class T, int kBits> DEVICE void decode(u32 (&a)[4], const u32* codes, const Zeros& zeros) {
    if constexpr (kBits == 4) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 pair = and_or<0x000f000f>(codes[0] >> 4 * i, code_base<T>());
            a[i] = fma2<T>(pair, ones<T>(), i % 2 ? zeros.high : zeros.low);
        }
    } else {
        a[0] = byte_pair<T>(codes[0], 0, zeros.low);
        a[1] = byte_pair<T>(codes[0], 2, zeros.high);
        a[2] = byte_pair<T>(codes[1], 0, zeros.low);
        a[3] = byte_pair<T>(codes[1], 2, zeros.high);
    }
}
