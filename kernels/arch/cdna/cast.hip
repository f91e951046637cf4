//! Casts between floats of 32, 16, 8 and 4 bits on CDNA, with packed conversions and 16 bytes a lane on the narrower side.
//! What is beyond the range of 8 and 4 bits becomes the largest number.
//!
//! Definitions from the planner (`kernels/src/gpu/cast.rs`): KERNELS, calls of CAST(symbol, from, to). The family's
//! `cast_primitives.h` converts the types that its instructions know.

/// Eight elements in memory words and as floats: `kBits` of an element, `encode` and `decode`.
template <class T> struct Codec;

template <> struct Codec<F32> {
    static constexpr u32 kBits = 32;
    static MEMBER void decode(float (&v)[8], const u32 (&words)[8]) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] = __uint_as_float(words[i]);
    }
    static MEMBER void encode(u32 (&words)[8], const float (&v)[8]) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) words[i] = __float_as_uint(v[i]);
    }
};
template <class T> struct Codec16 {
    static constexpr u32 kBits = 16;
    static MEMBER void decode(float (&v)[8], const u32 (&words)[4]) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] = widen16<T>((u16)(words[i / 2] >> 16 * (i % 2)));
    }
    static MEMBER void encode(u32 (&words)[4], const float (&v)[8]) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) words[i] = pack2<T>(v[2 * i], v[2 * i + 1]);
    }
};
template <> struct Codec<F16> : Codec16<F16> {};
template <> struct Codec<BF16> : Codec16<BF16> {};

#ifdef HAS_SMALL_FLOATS
template <class T> struct Codec8 {
    static constexpr u32 kBits = 8;
    static MEMBER void decode(float (&v)[8], const u32 (&words)[2]) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const f32x2 two = i % 2 ? widen8<T, true>(words[i / 2]) : widen8<T, false>(words[i / 2]);
            v[2 * i] = two.x, v[2 * i + 1] = two.y;
        }
    }
    static MEMBER void encode(u32 (&words)[2], const float (&v)[8]) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) words[i] = pack8<T>(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
    }
};
template <> struct Codec<E4M3> : Codec8<E4M3> {};
template <> struct Codec<E5M2> : Codec8<E5M2> {};
template <> struct Codec<E2M1> {
    static constexpr u32 kBits = 4;
    static MEMBER void decode(float (&v)[8], const u32 (&words)[1]) { widen4(v, words[0]); }
    static MEMBER void encode(u32 (&words)[1], const float (&v)[8]) { words[0] = pack4(v); }
};
#endif

template <class FROM, class TO> struct Cast {
    typedef Codec<FROM> From;
    typedef Codec<TO> To;
    static constexpr u32 kNarrow = From::kBits < To::kBits ? From::kBits : To::kBits;
    /// Elements of a thread, and words of eight.
    static constexpr u32 kElements = kNarrow < 16 ? 128 / kNarrow : 8;
    static constexpr u32 kFrom = From::kBits / 4, kTo = To::kBits / 4;
    /// The fewest elements that have bytes of their own.
    static constexpr u32 kLeast = kNarrow < 8 ? 2 : 1;

    /// Words of `BYTES` bytes from an address of any alignment to that.
    template <u32 BYTES> static MEMBER u32 load(const u8* from) {
        if constexpr (BYTES >= 4) return *(const u32*)from;
        else if constexpr (BYTES == 2) return *(const u16*)from;
        else return *from;
    }
    template <u32 BYTES> static MEMBER void store(u8* to, u32 word) {
        if constexpr (BYTES >= 4) *(u32*)to = word;
        else if constexpr (BYTES == 2) *(u16*)to = (u16)word;
        else *to = (u8)word;
    }

    static MEMBER void whole(u8* out, const u8* in) {
        u32 words[kElements / 8][kFrom], results[kElements / 8][kTo];
        u32x4* const pieces_out = (u32x4*)out;
        const u32x4* const pieces_in = (const u32x4*)in;
#pragma unroll
        for (u32 p = 0; p < kElements / 8 * kFrom / 4; p++) {
            const u32x4 piece = pieces_in[p];
#pragma unroll
            for (u32 w = 0; w < 4; w++) words[(4 * p + w) / kFrom][(4 * p + w) % kFrom] = piece[w];
        }
#pragma unroll
        for (u32 e = 0; e < kElements / 8; e++) {
            float v[8];
            From::decode(v, words[e]);
            To::encode(results[e], v);
        }
#pragma unroll
        for (u32 p = 0; p < kElements / 8 * kTo / 4; p++) {
            u32x4 piece;
#pragma unroll
            for (u32 w = 0; w < 4; w++) piece[w] = results[(4 * p + w) / kTo][(4 * p + w) % kTo];
            pieces_out[p] = piece;
        }
    }
    /// Element `at`, or two where they share a byte; `count` of them are there.
    static MEMBER void few(u8* out, const u8* in, u32 at, u32 count) {
        constexpr u32 kFromBytes = kLeast * From::kBits / 8, kToBytes = kLeast * To::kBits / 8;
        u32 words[kFrom] = {}, results[kTo];
        const u8* own = in + (u64)at * From::kBits / 8;
        words[0] = load<From::kBits < 8 ? 1 : From::kBits / 8>(own);
        if constexpr (kLeast == 2 && From::kBits >= 8) {
            const u32 second = count > 1 ? load<From::kBits / 8>(own + From::kBits / 8) : 0;
            if constexpr (From::kBits == 32) words[1] = second;
            else words[0] |= second << From::kBits;
        }
        float v[8];
        From::decode(v, words);
        To::encode(results, v);
        u8* to = out + (u64)at * To::kBits / 8;
        store<To::kBits < 8 ? 1 : To::kBits / 8>(to, results[0]);
        if constexpr (kLeast == 2 && To::kBits >= 8) {
            if (count > 1) store<To::kBits / 8>(to + To::kBits / 8, To::kBits == 32 ? results[To::kBits / 32] : results[0] >> To::kBits % 32);
        }
    }
    /// Threads beyond those of whole runs take what is left, one or two elements each.
    static MEMBER void run(u8* out, const u8* in, u32 total) {
        const u32 thread = blockIdx.x * 256 + threadIdx.x, runs = total / kElements;
        if (thread < runs) {
            whole(out + (u64)thread * kElements * To::kBits / 8, in + (u64)thread * kElements * From::kBits / 8);
            return;
        }
        const u32 at = runs * kElements + (thread - runs) * kLeast;
        if (at < total) few(out, in, at, total - at);
    }
};

#define CAST(SYMBOL_, FROM_, TO_)                                                                     \
    extern "C" __global__ __launch_bounds__(256) void SYMBOL_(u8* out, const u8* in, u32 total) {     \
        Cast<FROM_, TO_>::run(out, in, total);                                                        \
    }

KERNELS
