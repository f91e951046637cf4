//! Elements of 8 bits and less: floats of 8 and 4 bits, powers of two, and packed integers. How their codes are read from
//! memory, turned into numbers and back. Rounding is to nearest, ties to even.
//!
//! Numbers of types are those of ONNX; packed types hold the first element in the lowest bits.

#define DTYPE_F8E4M3FN 17
#define DTYPE_F8E4M3FNUZ 18
#define DTYPE_F8E5M2 19
#define DTYPE_F8E5M2FNUZ 20
#define DTYPE_U4 21
#define DTYPE_I4 22
#define DTYPE_F4E2M1 23
#define DTYPE_F8E8M0 24
#define DTYPE_U2 25
#define DTYPE_I2 26

// What a format does with its uppermost codes.
#define SPECIALS_IEEE 0 // infinity and NaN, as in IEEE 754
#define SPECIALS_FN 1   // all ones is NaN; no infinity
#define SPECIALS_FNUZ 2 // the code of -0 is NaN; no infinity, one zero
#define SPECIALS_NONE 3 // every code is a number

// How a number becomes a code.
struct CodeRules {
    u32 saturate;      // beyond the range: the largest number, not infinity or NaN
    u32 power_rounding; // of powers of two: POWER_*
};
#define POWER_UP 0
#define POWER_DOWN 1
#define POWER_NEAREST 2

// A float with a sign, M bits of mantissa and the given bias of its exponent; LARGEST is the code of its largest number.
template <int BITS_, int M, int BIAS, u32 LARGEST, int SPECIALS> struct SmallFloat {
    static constexpr int BITS = BITS_;
    static constexpr bool IS_WHOLE = false;
    static constexpr u32 SIGN = 1u << (BITS - 1);

    static __device__ __forceinline__ u32 nan(u32 sign) {
        if (SPECIALS == SPECIALS_FNUZ) return SIGN;
        if (SPECIALS == SPECIALS_NONE) return sign;
        return sign | (SPECIALS == SPECIALS_IEEE ? (LARGEST + 1) | 1u << (M - 1) : LARGEST + 1);
    }

    static __device__ __forceinline__ u32 encode(float value, int, CodeRules rules) {
        constexpr u32 LEAST = 128 - BIAS, LARGEST_BITS = (LARGEST << (23 - M)) + ((u32)(127 - BIAS) << 23);
        u32 bits = __float_as_uint(value), sign = bits >> (32 - BITS) & SIGN, magnitude = bits & 0x7fffffff;
        u32 bound = rules.saturate ? LARGEST_BITS : LARGEST_BITS + (2u << 23);
        u32 bounded = magnitude < bound ? magnitude : bound;
        // Adding a number whose last bit is one step of the code's exponent counts the steps, rounded.
        u32 exponent = bounded >> 23 > LEAST ? bounded >> 23 : LEAST, step = (exponent + 23 - M) << 23;
        u32 steps = __float_as_uint(__uint_as_float(bounded) + __uint_as_float(step)) - step;
        u32 code = steps + ((exponent - LEAST) << M), beyond = SPECIALS == SPECIALS_NONE ? LARGEST : LARGEST + 1;
        if (!rules.saturate && code > LARGEST) code = SPECIALS == SPECIALS_FNUZ ? SIGN : beyond;
        if (magnitude > 0x7f800000) return nan(sign);
        return SPECIALS == SPECIALS_FNUZ && code == 0 ? 0 : sign | code;
    }

    static __device__ __forceinline__ float decode(u32 code) {
        u32 magnitude = code & (SIGN - 1);
        float small = (float)magnitude * __uint_as_float((u32)(128 - BIAS - M) << 23);
        u32 bits = (magnitude << (23 - M)) + ((u32)(127 - BIAS) << 23);
        if (magnitude < 1u << M) bits = __float_as_uint(small);
        if (SPECIALS == SPECIALS_FNUZ && code == SIGN) return __uint_as_float(0x7fc00000);
        if (SPECIALS != SPECIALS_FNUZ && magnitude > LARGEST)
            bits = SPECIALS == SPECIALS_IEEE && magnitude == LARGEST + 1 ? 0x7f800000 : 0x7fc00000;
        return __uint_as_float(bits | (code & SIGN ? 0x80000000u : 0u));
    }
};

// The power of two 2^(code - 127), without a sign; 255 is NaN.
struct PowerOfTwo {
    static constexpr int BITS = 8;
    static constexpr bool IS_WHOLE = false;

    static __device__ __forceinline__ u32 encode(float value, int, CodeRules rules) {
        u32 bits = __float_as_uint(value) & 0x7fffffff, exponent = bits >> 23, mantissa = bits & 0x7fffff;
        if (exponent == 255) return 255;
        // Without an implicit one, the smallest power is half of the mantissa's range.
        if (exponent == 0) mantissa = bits > 0x400000 ? (bits - 0x400000) << 1 : 0;
        bool up = rules.power_rounding == POWER_UP ? mantissa != 0
                                                   : rules.power_rounding == POWER_NEAREST && mantissa >= 0x400000;
        u32 code = exponent + (up ? 1 : 0);
        return code < 255 ? code : rules.saturate ? 254 : 255;
    }

    static __device__ __forceinline__ float decode(u32 code) {
        return __uint_as_float(code == 255 ? 0x7fc00000 : code == 0 ? 0x400000 : code << 23);
    }
};

// An integer of few bits. What is stored keeps the low bits of `whole`.
template <int BITS_, bool IS_SIGNED> struct SmallInt {
    static constexpr int BITS = BITS_;
    static constexpr bool IS_WHOLE = true;
    static constexpr int LEAST = IS_SIGNED ? -(1 << (BITS - 1)) : 0;
    static constexpr int MOST = IS_SIGNED ? (1 << (BITS - 1)) - 1 : (1 << BITS) - 1;

    static __device__ __forceinline__ u32 encode(float, int whole, CodeRules) {
        return (u32)whole & ((1u << BITS) - 1);
    }
    static __device__ __forceinline__ float decode(u32 code) {
        return (float)(IS_SIGNED ? (int)(code << (32 - BITS)) >> (32 - BITS) : (int)code);
    }
};

typedef SmallFloat<8, 3, 7, 0x7e, SPECIALS_FN> e4m3fn;
typedef SmallFloat<8, 3, 8, 0x7f, SPECIALS_FNUZ> e4m3fnuz;
typedef SmallFloat<8, 2, 15, 0x7b, SPECIALS_IEEE> e5m2;
typedef SmallFloat<8, 2, 16, 0x7f, SPECIALS_FNUZ> e5m2fnuz;
typedef SmallFloat<4, 1, 1, 0x7, SPECIALS_NONE> e2m1;

// The nearest number of a small integer type to an integer.
template <class C, bool IS_WHOLE> struct Nearest {
    static __device__ __forceinline__ int of(float) { return 0; }
};
template <class C> struct Nearest<C, true> {
    static __device__ __forceinline__ int of(float v) {
        if (v != v) return 0;
        float high = v > (float)C::LEAST ? v : (float)C::LEAST;
        // Added to 3 * 2^22, an integer is in the low bits.
        return (int)__float_as_uint((high < (float)C::MOST ? high : (float)C::MOST) + 12582912.0f) - 0x4b400000;
    }
};

// Does BODY with C as the codec of the number DTYPE, for types that no other kernel knows.
#define FOR_NARROW(DTYPE, ...)                                          \
    switch (DTYPE) {                                                    \
    case DTYPE_F8E4M3FN: { typedef e4m3fn C; __VA_ARGS__ } break;       \
    case DTYPE_F8E4M3FNUZ: { typedef e4m3fnuz C; __VA_ARGS__ } break;   \
    case DTYPE_F8E5M2: { typedef e5m2 C; __VA_ARGS__ } break;           \
    case DTYPE_F8E5M2FNUZ: { typedef e5m2fnuz C; __VA_ARGS__ } break;   \
    case DTYPE_F4E2M1: { typedef e2m1 C; __VA_ARGS__ } break;           \
    case DTYPE_F8E8M0: { typedef PowerOfTwo C; __VA_ARGS__ } break;     \
    case DTYPE_U4: { typedef SmallInt<4, false> C; __VA_ARGS__ } break; \
    case DTYPE_I4: { typedef SmallInt<4, true> C; __VA_ARGS__ } break;  \
    case DTYPE_U2: { typedef SmallInt<2, false> C; __VA_ARGS__ } break; \
    case DTYPE_I2: { typedef SmallInt<2, true> C; __VA_ARGS__ } break;  \
    }

// The same for every type that values are quantised to.
#define FOR_QUANTIZED(DTYPE, ...)                                       \
    switch (DTYPE) {                                                    \
    case DTYPE_F8E4M3FN: { typedef e4m3fn C; __VA_ARGS__ } break;       \
    case DTYPE_F8E4M3FNUZ: { typedef e4m3fnuz C; __VA_ARGS__ } break;   \
    case DTYPE_F8E5M2: { typedef e5m2 C; __VA_ARGS__ } break;           \
    case DTYPE_F8E5M2FNUZ: { typedef e5m2fnuz C; __VA_ARGS__ } break;   \
    case DTYPE_F4E2M1: { typedef e2m1 C; __VA_ARGS__ } break;           \
    case DTYPE_U8: { typedef SmallInt<8, false> C; __VA_ARGS__ } break; \
    case DTYPE_I8: { typedef SmallInt<8, true> C; __VA_ARGS__ } break;  \
    case DTYPE_U16: { typedef SmallInt<16, false> C; __VA_ARGS__ } break;\
    case DTYPE_I16: { typedef SmallInt<16, true> C; __VA_ARGS__ } break;\
    case DTYPE_U4: { typedef SmallInt<4, false> C; __VA_ARGS__ } break; \
    case DTYPE_I4: { typedef SmallInt<4, true> C; __VA_ARGS__ } break;  \
    case DTYPE_U2: { typedef SmallInt<2, false> C; __VA_ARGS__ } break; \
    case DTYPE_I2: { typedef SmallInt<2, true> C; __VA_ARGS__ } break;  \
    }

// The code at `at`.
template <int BITS> __device__ __forceinline__ u32 load_code(const void *from, u32 at) {
    if (BITS == 16) return ((const u16 *)from)[at];
    constexpr u32 EACH = BITS < 8 ? 8 / BITS : 1;
    return (u32)((const u8 *)from)[at / EACH] >> at % EACH * BITS & ((1u << BITS) - 1);
}

// The codes from `at` on, a multiple of V; `count` of them are there, the others are 0.
template <int BITS, int V>
__device__ __forceinline__ void load_codes(u32 (&codes)[V], const void *from, u32 at, u32 count) {
    constexpr int BYTES = V * BITS / 8 > 0 ? V * BITS / 8 : 1;
    if (count < V) {
        _Pragma("unroll") for (u32 i = 0; i < V; i++) codes[i] = i < count ? load_code<BITS>(from, at + i) : 0;
        return;
    }
    Pack<u8, BYTES> pack = *(const Pack<u8, BYTES> *)((const u8 *)from + at / V * BYTES);
    _Pragma("unroll") for (int i = 0; i < V; i++) {
        if (BITS == 16) codes[i] = pack.at[(2 * i) % BYTES] | (u32)pack.at[(2 * i + 1) % BYTES] << 8;
        else codes[i] = (u32)pack.at[i * BITS / 8] >> i * BITS % 8 & ((1u << BITS) - 1);
    }
}

// Writes them; the bits behind the last element of packed types become 0.
template <int BITS, int V>
__device__ __forceinline__ void store_codes(void *to, u32 at, u32 count, const u32 (&codes)[V]) {
    constexpr int BYTES = V * BITS / 8 > 0 ? V * BITS / 8 : 1;
    Pack<u8, BYTES> pack;
    _Pragma("unroll") for (int byte = 0; byte < BYTES; byte++) {
        u32 value = 0;
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            int place = i * BITS - byte * 8;
            if (place <= -BITS || place >= 8 || (u32)i >= count) continue;
            value |= place < 0 ? codes[i] >> (place < 0 ? -place : 0) : codes[i] << (place < 0 ? 0 : place);
        }
        pack.at[byte] = (u8)value;
    }
    u8 *own = (u8 *)to + at / V * BYTES;
    if (count >= V) {
        *(Pack<u8, BYTES> *)own = pack;
        return;
    }
    _Pragma("unroll") for (int byte = 0; byte < BYTES; byte++)
        if (byte * 8 < (int)count * BITS) own[byte] = pack.at[byte];
}

// A float that every small float rounds as it rounds `v`: the nearest towards zero, its last bit 1 where something was cut.
__device__ __forceinline__ float round_to_odd(double v) {
    float near = (float)v;
    if ((double)near == v || v != v) return near;
    u32 bits = __float_as_uint(near);
    double magnitude = v < 0.0 ? -v : v, rounded = near < 0.0f ? -(double)near : (double)near;
    if (rounded > magnitude) bits -= 1;
    return __uint_as_float(bits | 1);
}

// Towards zero; what no integer of 32 bits holds becomes the nearest one that is.
__device__ __forceinline__ int truncated(double v) {
    return v != v ? 0 : v >= 2147483647.0 ? 2147483647 : v <= -2147483648.0 ? (int)0x80000000 : (int)v;
}
