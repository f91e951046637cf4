//! Conversions from and to elements of few bits: plain casts, and linear quantisation with scales and zero points for the
//! whole tensor, along an axis, or for blocks of an axis.
//!
//! A thread converts V neighbours. Types are numbers among the parameters: every thread of the grid takes the same branch.

// Where the elements share scales: element (o, a, n) of [outer, axis, inner] has scale
// o * outer_step + a / block * axis_step + n * inner_step.
struct Granularity {
    u32 inner, axis, block;
    u32 inner_magic, inner_shift, axis_magic, axis_shift, block_magic, block_shift;
    u32 outer_step, axis_step, inner_step;
    int delta; // from one of V neighbours to the next; below 0: not the same for all
};

__device__ __forceinline__ u32 quotient(u32 v, u32 divisor, u32 magic, u32 shift) {
    return divisor == 1 ? v : __umulhi(v, magic) >> shift;
}

__device__ __forceinline__ u32 scale_index(u32 at, const Granularity &g) {
    u32 row = quotient(at, g.inner, g.inner_magic, g.inner_shift), n = at - row * g.inner;
    u32 o = quotient(row, g.axis, g.axis_magic, g.axis_shift), a = row - o * g.axis;
    return o * g.outer_step + quotient(a, g.block, g.block_magic, g.block_shift) * g.axis_step + n * g.inner_step;
}

template <int V> __device__ __forceinline__ void scale_indices(u32 (&to)[V], u32 at, const Granularity &g) {
    to[0] = scale_index(at, g);
    _Pragma("unroll") for (int i = 1; i < V; i++)
        to[i] = g.delta >= 0 ? to[0] + (u32)i * (u32)g.delta : scale_index(at + i, g);
}

__device__ __forceinline__ float load_scale(const void *from, u32 dtype, u32 at) {
    if (dtype == DTYPE_F32) return ((const float *)from)[at];
    if (dtype == DTYPE_F16) return f16_to_f32(((const u16 *)from)[at]);
    if (dtype == DTYPE_BF16) return bf16_to_f32(((const u16 *)from)[at]);
    return PowerOfTwo::decode(((const u8 *)from)[at]);
}

template <int V>
__device__ __forceinline__ void load_scales(float (&to)[V], const void *from, u32 dtype, const u32 (&index)[V],
                                            int delta) {
    to[0] = load_scale(from, dtype, index[0]);
    _Pragma("unroll") for (int i = 1; i < V; i++) to[i] = delta == 0 ? to[0] : load_scale(from, dtype, index[i]);
}

// V elements from `at` on, of which `count` are there.
template <class S, int V>
__device__ __forceinline__ Pack<S, V> load_some(const void *from, u32 at, u32 count) {
    const S *own = (const S *)from + at;
    if (count >= V) return load_pack<S, V>(own);
    Pack<S, V> pack;
    _Pragma("unroll") for (u32 i = 0; i < V; i++) pack.at[i] = i < count ? own[i] : S();
    return pack;
}

template <class S, int V>
__device__ __forceinline__ void store_some(void *to, u32 at, u32 count, const Pack<S, V> &pack) {
    S *own = (S *)to + at;
    if (count >= V) {
        *(Pack<S, V> *)own = pack;
        return;
    }
    _Pragma("unroll") for (u32 i = 0; i < V; i++)
        if (i < count) own[i] = pack.at[i];
}

// ---- Casts ----

// A number on its way to few bits: as a float that rounds like it, and the low bits of it as an integer.
template <class S> struct Between {
    static __device__ __forceinline__ float value(S v) { return widen<float>(v); }
    static __device__ __forceinline__ int whole(S v) { return (int)widen<i64>(v); }
};
template <class S> struct BetweenFloat {
    static __device__ __forceinline__ float value(S v) { return widen<float>(v); }
    static __device__ __forceinline__ int whole(S v) { return truncated((double)widen<float>(v)); }
};
template <class S> struct BetweenWide {
    static __device__ __forceinline__ float value(S v) { return round_to_odd((double)v); }
    static __device__ __forceinline__ int whole(S v) { return (int)(i64)v; }
};
template <> struct Between<float> : BetweenFloat<float> {};
template <> struct Between<f16> : BetweenFloat<f16> {};
template <> struct Between<bf16> : BetweenFloat<bf16> {};
template <> struct Between<int> : BetweenWide<int> {};
template <> struct Between<u32> : BetweenWide<u32> {};
template <> struct Between<i64> : BetweenWide<i64> {};
template <> struct Between<u64> : BetweenWide<u64> {};
template <> struct Between<double> {
    static __device__ __forceinline__ float value(double v) { return round_to_odd(v); }
    static __device__ __forceinline__ int whole(double v) { return truncated(v); }
};

// From a number of few bits: floats exactly, integers towards zero and into their range.
template <class S> struct Widened {
    static __device__ __forceinline__ S from(float v) { return Narrow<S>::from(v); }
};
template <class S, i64 LEAST, u64 MOST> struct WidenedWhole {
    static __device__ __forceinline__ S from(float v) {
        return v != v ? (S)0 : v >= (float)MOST ? (S)MOST : v <= (float)LEAST ? (S)LEAST : (S)v;
    }
};
template <> struct Widened<u8> : WidenedWhole<u8, 0, 255> {};
template <> struct Widened<i8> : WidenedWhole<i8, -128, 127> {};
template <> struct Widened<u16> : WidenedWhole<u16, 0, 65535> {};
template <> struct Widened<i16> : WidenedWhole<i16, -32768, 32767> {};
template <> struct Widened<u32> : WidenedWhole<u32, 0, 4294967295u> {};
template <> struct Widened<int> : WidenedWhole<int, -2147483648ll, 2147483647u> {};
template <> struct Widened<u64> : WidenedWhole<u64, 0, 18446744073709551615ull> {};
template <> struct Widened<i64> : WidenedWhole<i64, -9223372036854775807ll - 1, 9223372036854775807ull> {};

template <class S, int V>
__device__ __forceinline__ void load_between(const S *from, u32 at, u32 count, float (&value)[V], int (&whole)[V]) {
    Pack<S, V> pack = load_some<S, V>(from, at, count);
    _Pragma("unroll") for (int i = 0; i < V; i++) {
        value[i] = Between<S>::value(pack.at[i]);
        whole[i] = Between<S>::whole(pack.at[i]);
    }
}

template <class S, int V>
__device__ __forceinline__ void store_widened(S *to, u32 at, u32 count, const float (&value)[V]) {
    Pack<S, V> pack;
    _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = Widened<S>::from(value[i]);
    store_some<S, V>(to, at, count, pack);
}

struct CastParams {
    u32 total, from, to; // elements, types
    CodeRules rules;
};

template <int V> __device__ __forceinline__ void narrow_cast(void *to, const void *from, const CastParams &p) {
    begin_kernel();
    u32 at = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= p.total) return;
    u32 count = p.total - at;
    float value[V];
    int whole[V];
    _Pragma("unroll") for (int i = 0; i < V; i++) value[i] = 0.0f, whole[i] = 0;
    FOR_NARROW(p.from, {
        u32 codes[V];
        load_codes<C::BITS, V>(codes, from, at, count);
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            value[i] = C::decode(codes[i]);
            whole[i] = truncated((double)value[i]);
        }
    })
    FOR_DTYPE(p.from, load_between((const S *)from, at, count, value, whole);)
    FOR_NARROW(p.to, {
        u32 codes[V];
        _Pragma("unroll") for (int i = 0; i < V; i++) codes[i] = C::encode(value[i], whole[i], p.rules);
        store_codes<C::BITS, V>(to, at, count, codes);
    })
    FOR_DTYPE(p.to, store_widened((S *)to, at, count, value);)
}

// ---- Linear quantisation ----

#define FOR_REAL(DTYPE, ...)                               \
    switch (DTYPE) {                                       \
    case DTYPE_F32: { typedef float S; __VA_ARGS__ } break; \
    case DTYPE_F16: { typedef f16 S; __VA_ARGS__ } break;  \
    case DTYPE_BF16: { typedef bf16 S; __VA_ARGS__ } break; \
    }

struct QuantizeParams {
    u32 total, real, code, scale; // elements; types of the floats, the codes and the scales
    u32 precision;                // what quotients are rounded to
    CodeRules rules;
    Granularity granularity;
};

// The nearest even integer; far beyond the range of every code it stays as it is.
__device__ __forceinline__ float rounded(float v) {
    float magnitude = v < 0.0f ? -v : v;
    return magnitude < 4194304.0f ? v + 12582912.0f - 12582912.0f : v;
}

// V quotients by one divisor, each the float next to the exact one: a product with the reciprocal, corrected by what it
// leaves. Outside the range where that holds the product is taken in double precision, which is near enough: no quotient
// of two floats lies that close to the middle between two others.
template <int V> __device__ __forceinline__ void divide_all(float (&value)[V], float divisor) {
    const float most = 1.152921504606847e18f, least = 8.673617379884035e-19f;
    float size = divisor < 0.0f ? -divisor : divisor, largest = 0.0f;
    _Pragma("unroll") for (int i = 0; i < V; i++) largest = fmaxf(largest, fabsf(value[i]));
    if (!(size > least && size < most && largest < most)) {
        double inverse = 1.0 / (double)divisor;
        _Pragma("unroll") for (int i = 0; i < V; i++) value[i] = (float)((double)value[i] * inverse);
        return;
    }
    float inverse = 1.0f / divisor;
    _Pragma("unroll") for (int i = 0; i < V; i++) {
        float near = value[i] * inverse;
        value[i] = fmaf(fmaf(-near, divisor, value[i]), inverse, near);
    }
}

// code = saturate(x / scale + zero); integers are rounded before the zero point is added.
template <int V>
__device__ __forceinline__ void narrow_quantize(void *to, const void *from, const void *scale, const void *zero,
                                                const QuantizeParams &p) {
    begin_kernel();
    u32 at = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= p.total) return;
    u32 count = p.total - at, index[V];
    float value[V];
    scale_indices<V>(index, at, p.granularity);
    if (count < V) _Pragma("unroll") for (u32 i = 0; i < V; i++) index[i] = i < count ? index[i] : 0;
    FOR_REAL(p.real, {
        Pack<S, V> pack = load_some<S, V>(from, at, count);
        _Pragma("unroll") for (int i = 0; i < V; i++) value[i] = widen<float>(pack.at[i]);
    })
    if (p.granularity.delta == 0) {
        divide_all<V>(value, load_scale(scale, p.scale, index[0]));
    } else {
        float scales[V];
        load_scales<V>(scales, scale, p.scale, index, p.granularity.delta);
        _Pragma("unroll") for (int i = 0; i < V; i++) value[i] = value[i] / scales[i];
    }
    if (p.precision == DTYPE_F16) {
        _Pragma("unroll") for (int i = 0; i < V; i++) value[i] = f16_to_f32(f32_to_f16(value[i]));
    } else if (p.precision == DTYPE_BF16) {
        _Pragma("unroll") for (int i = 0; i < V; i++) value[i] = bf16_to_f32(f32_to_bf16(value[i]));
    }
    FOR_QUANTIZED(p.code, {
        u32 codes[V];
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            float v = C::IS_WHOLE ? rounded(value[i]) : value[i];
            if (zero) v += C::decode(load_code<C::BITS>(zero, index[i]));
            codes[i] = C::encode(v, Nearest<C, C::IS_WHOLE>::of(v), p.rules);
        }
        store_codes<C::BITS, V>(to, at, count, codes);
    })
}

// The code of a quotient that an offset is added to; its upper bits are any.
template <class C, bool IS_WHOLE> struct PackCode {
    static __device__ __forceinline__ u32 of(float v, float offset) { return C::encode(v + offset, 0, CodeRules{1, 0}); }
};
template <class C> struct PackCode<C, true> {
    static __device__ __forceinline__ u32 of(float v, float offset) {
        // Added to 3 * 2^22, a number is rounded to an integer in the low bits.
        float bounded = fminf(fmaxf(v, (float)C::LEAST - offset), (float)C::MOST - offset);
        u32 code = __float_as_uint(bounded + 12582912.0f) + (u32)(int)offset;
        return v != v ? 0 : code;
    }
};

#define PACK 16

template <class S> __device__ __forceinline__ void load_values(float (&value)[PACK], const void *from, u32 at) {
    constexpr int EACH = 16 / sizeof(S);
    Pack<S, EACH> pack[PACK / EACH];
    _Pragma("unroll") for (int i = 0; i < PACK / EACH; i++) pack[i] = load_pack<S, EACH>((const S *)from + at + i * EACH);
    _Pragma("unroll") for (int i = 0; i < PACK; i++) value[i] = widen<float>(pack[i / EACH].at[i % EACH]);
}

template <class C>
__device__ __forceinline__ void store_values(void *to, u32 at, const float (&value)[PACK], const void *zero, u32 index) {
    // Added to any number, -0 changes nothing.
    float offset = zero ? C::decode(load_code<C::BITS>(zero, index)) : -0.0f;
    u32 codes[PACK];
    _Pragma("unroll") for (int i = 0; i < PACK; i++) codes[i] = PackCode<C, C::IS_WHOLE>::of(value[i], offset);
    store_codes<C::BITS, PACK>(to, at, PACK, codes);
}

// The same for packs of elements that share a scale, saturating, all of them there.
__device__ __forceinline__ void quantize_packs(void *to, const void *from, const void *scale, const void *zero,
                                               const QuantizeParams &p) {
    begin_kernel();
    u32 at = (blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (at >= p.total) return;
    float value[PACK];
    FOR_REAL(p.real, load_values<S>(value, from, at);)
    u32 index = scale_index(at, p.granularity);
    divide_all<PACK>(value, load_scale(scale, p.scale, index));
    if (p.precision == DTYPE_F16) {
        _Pragma("unroll") for (int i = 0; i < PACK; i++) value[i] = f16_to_f32(f32_to_f16(value[i]));
    } else if (p.precision == DTYPE_BF16) {
        _Pragma("unroll") for (int i = 0; i < PACK; i++) value[i] = bf16_to_f32(f32_to_bf16(value[i]));
    }
    switch (p.code) {
    case DTYPE_F8E4M3FN: return store_values<e4m3fn>(to, at, value, zero, index);
    case DTYPE_F8E5M2: return store_values<e5m2>(to, at, value, zero, index);
    case DTYPE_U8: return store_values<SmallInt<8, false>>(to, at, value, zero, index);
    case DTYPE_I8: return store_values<SmallInt<8, true>>(to, at, value, zero, index);
    }
}

// x = (code - zero) scale.
template <int V>
__device__ __forceinline__ void narrow_dequantize(void *to, const void *from, const void *scale, const void *zero,
                                                  const QuantizeParams &p) {
    begin_kernel();
    u32 at = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= p.total) return;
    u32 count = p.total - at, index[V];
    float value[V], scales[V];
    scale_indices<V>(index, at, p.granularity);
    if (count < V) _Pragma("unroll") for (u32 i = 0; i < V; i++) index[i] = i < count ? index[i] : 0;
    load_scales<V>(scales, scale, p.scale, index, p.granularity.delta);
    FOR_QUANTIZED(p.code, {
        u32 codes[V];
        load_codes<C::BITS, V>(codes, from, at, count);
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            value[i] = C::decode(codes[i]);
            if (zero) value[i] -= C::decode(load_code<C::BITS>(zero, index[i]));
        }
    })
    FOR_REAL(p.real, {
        Pack<S, V> pack;
        _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = Narrow<S>::from(value[i] * scales[i]);
        store_some<S, V>(to, at, count, pack);
    })
}

#define NARROW_KERNELS(V)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
        narrow_cast_v##V(void *to, const void *from, const __grid_constant__ CastParams p) {                        \
        narrow_cast<V>(to, from, p);                                                                                \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
        narrow_quantize_v##V(void *to, const void *from, const void *scale, const void *zero,                       \
                             const __grid_constant__ QuantizeParams p) {                                            \
        narrow_quantize<V>(to, from, scale, zero, p);                                                               \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
        narrow_dequantize_v##V(void *to, const void *from, const void *scale, const void *zero,                     \
                               const __grid_constant__ QuantizeParams p) {                                          \
        narrow_dequantize<V>(to, from, scale, zero, p);                                                             \
    }

NARROW_KERNELS(4)
NARROW_KERNELS(8)

extern "C" __global__ void __launch_bounds__(256) narrow_quantize_packs(void *to, const void *from, const void *scale,
                                                                        const void *zero,
                                                                        const __grid_constant__ QuantizeParams p) {
    quantize_packs(to, from, scale, zero, p);
}
