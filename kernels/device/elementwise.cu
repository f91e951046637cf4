//! Chains of element-wise operators in one kernel: an interpreter of a short program that is uniform over the grid.
//!
//! A thread computes V neighbouring elements of the output. The program works on an accumulator, four temporaries and
//! a source (an operand read at its broadcast position, a temporary or a constant). Registers are named, never indexed,
//! so nothing spills. Parameters come by value, so the program sits in constant memory.
//!
//! Light programs (floats, common operators, no temporary) have kernels with fewer registers, hence more threads, that
//! read the first two operands before the program starts, so that the reads overlap.

struct MapCode {
    u32 op;     // MAP_*
    u32 source; // kind of the source: SOURCE_*
    u32 index;  // which operand, temporary or constant
    u32 temp;   // the temporary that MAP_STORE and MAP_SELECT name; else 0

    // A byte each, the first one lowest.
    __device__ __forceinline__ MapCode(u32 word)
        : op(word & 255), source(word >> 8 & 255), index(word >> 16 & 255), temp(word >> 24) {}
};

#define SOURCE_NONE 0
#define SOURCE_OPERAND 1
#define SOURCE_TEMP 2
#define SOURCE_CONSTANT 3
// Operands of light programs that were read before the program started: a pack, or one element for the whole pack.
#define SOURCE_AHEAD_PACK 4
#define SOURCE_AHEAD_ONE 5

// FOR_DTYPE of floats that are computed in f32.
#define FOR_FLOAT(DTYPE, BODY)                          \
    switch (DTYPE) {                                    \
    case DTYPE_F32: { typedef float S; BODY } break;    \
    case DTYPE_F16: { typedef f16 S; BODY } break;      \
    case DTYPE_BF16: { typedef bf16 S; BODY } break;    \
    }

// Where the element of an operand lies: by its strides, at the output's own place, or always at the front.
#define PLACE_STRIDED 0
#define PLACE_DENSE 1
#define PLACE_FRONT 2
#define PLACE_ROW 3    // by the position along the innermost dimension
#define PLACE_COLUMN 4 // by that along the one around it

// What has to be known of an element's position: nothing, those along the two innermost dimensions, or all.
#define POSITIONS_NONE 0
#define POSITIONS_TWO 1
#define POSITIONS_ALL 2

struct MapParams {
    u32 total;                              // elements of the output
    u32 rank;                               // dimensions, innermost first
    u32 dims[MAP_RANK];
    u32 magic[MAP_RANK];                    // division by dims: (n * magic) >> (32 + shift)
    u32 shift[MAP_RANK];
    int strides[MAP_OPERANDS][MAP_RANK];    // elements of the operand
    u64 constants[MAP_CONSTANTS];           // bits of T
    u8 dtypes[MAP_OPERANDS];
    u8 is_vector[MAP_OPERANDS];             // V neighbours can be read at once
    u8 place[MAP_OPERANDS];                 // PLACE_*
    u8 out_dtype;
    u8 length;                              // instructions
    u8 positions;                           // POSITIONS_*
    u8 ahead;                               // operands read before the program starts, of a light one
    u32 code[MAP_LENGTH + 1];               // MapCode; one more, so that the next one can always be read
};

template <class T> __device__ __forceinline__ T constant_of(u64 bits);
template <> __device__ __forceinline__ float constant_of<float>(u64 bits) { return __uint_as_float((u32)bits); }
template <> __device__ __forceinline__ double constant_of<double>(u64 bits) { return __longlong_as_double((i64)bits); }
template <> __device__ __forceinline__ i64 constant_of<i64>(u64 bits) { return (i64)bits; }

// Operators of real numbers only.
template <class T, int V> __device__ __forceinline__ void apply_real(u32 op, T (&acc)[V], const T (&src)[V]) {
    switch (op) {
    case MAP_RECIPROCAL: EACH((T)1 / a)
    case MAP_SQRT: EACH(r_sqrt(a))
    case MAP_EXP: EACH(r_exp(a))
    case MAP_LOG: EACH(r_log(a))
    case MAP_LOG1P: EACH(r_log1p(a))
    case MAP_EXPM1: EACH(r_expm1(a))
    case MAP_TANH: EACH(r_tanh(a))
    case MAP_SIGMOID: EACH(r_sigmoid(a))
    case MAP_SILU: EACH(a * r_sigmoid(a * b))
    case MAP_ERF: EACH(r_erf(a))
    case MAP_GELU: EACH(r_gelu(a))
    case MAP_GELU_TANH: EACH(r_gelu_tanh(a))
    case MAP_SOFTPLUS: EACH(r_softplus(a))
    case MAP_FLOOR: EACH(r_floor(a))
    case MAP_CEIL: EACH(r_ceil(a))
    case MAP_ROUND: EACH(r_rint(a))
    case MAP_SIN: EACH(r_sin(a))
    case MAP_COS: EACH(r_cos(a))
    case MAP_TAN: EACH(r_tan(a))
    case MAP_ASIN: EACH(r_asin(a))
    case MAP_ACOS: EACH(r_acos(a))
    case MAP_ATAN: EACH(r_atan(a))
    case MAP_SINH: EACH(r_sinh(a))
    case MAP_COSH: EACH(r_cosh(a))
    case MAP_ASINH: EACH(r_asinh(a))
    case MAP_ACOSH: EACH(r_acosh(a))
    case MAP_ATANH: EACH(r_atanh(a))
    case MAP_IS_NAN: EACH(a != a)
    case MAP_IS_POSITIVE_INFINITY: EACH(a > (T)0 && a == a + a && a * (T)0 != a * (T)0)
    case MAP_IS_NEGATIVE_INFINITY: EACH(a < (T)0 && a == a + a && a * (T)0 != a * (T)0)
    case MAP_TO_F16: EACH(f16_to_f32(Narrow<f16>::from(a).bits))
    case MAP_TO_BF16: EACH(bf16_to_f32(Narrow<bf16>::from(a).bits))
    case MAP_TO_F32: EACH((float)a)
    case MAP_TRUNCATE: EACH(a < (T)0 ? r_ceil(a) : r_floor(a))
    }
}

// Operators of integers only.
template <int V> __device__ __forceinline__ void apply_integer(u32 op, i64 (&acc)[V], const i64 (&src)[V]) {
    typedef i64 T;
    switch (op) {
    case MAP_BIT_AND: EACH(a & b)
    case MAP_BIT_OR: EACH(a | b)
    case MAP_BIT_XOR: EACH(a ^ b)
    case MAP_BIT_NOT: EACH(~a)
    case MAP_SHIFT_LEFT: EACH(b > 63 ? 0 : (u64)a << b)
    case MAP_SHIFT_RIGHT: EACH(b > 63 ? 0 : (u64)a >> b)
    }
}
template <int V> __device__ __forceinline__ void apply_own(u32 op, float (&acc)[V], const float (&src)[V]) {
    apply_real<float, V>(op, acc, src);
}
template <int V> __device__ __forceinline__ void apply_own(u32 op, double (&acc)[V], const double (&src)[V]) {
    apply_real<double, V>(op, acc, src);
}
template <int V> __device__ __forceinline__ void apply_own(u32 op, i64 (&acc)[V], const i64 (&src)[V]) {
    apply_integer<V>(op, acc, src);
}

template <class T, int V>
__device__ __forceinline__ void apply(u32 op, T (&acc)[V], const T (&src)[V], const T (&other)[V]) {
    switch (op) {
    case MAP_MOVE: EACH(b)
    case MAP_ADD: EACH(a + b)
    case MAP_SUBTRACT: EACH(a - b)
    case MAP_REVERSE_SUBTRACT: EACH(b - a)
    case MAP_MULTIPLY: EACH(a * b)
    case MAP_DIVIDE: EACH(r_divide(a, b))
    case MAP_REVERSE_DIVIDE: EACH(r_divide(b, a))
    case MAP_MAX: EACH(r_max(a, b))
    case MAP_MIN: EACH(r_min(a, b))
    case MAP_POWER: EACH(r_pow(a, b))
    case MAP_REVERSE_POWER: EACH(r_pow(b, a))
    case MAP_FMOD: EACH(r_fmod(a, b))
    case MAP_REVERSE_FMOD: EACH(r_fmod(b, a))
    case MAP_MOD: EACH(r_mod(a, b))
    case MAP_REVERSE_MOD: EACH(r_mod(b, a))
    case MAP_EQUAL: EACH(a == b)
    case MAP_LESS: EACH(a < b)
    case MAP_LESS_OR_EQUAL: EACH(a <= b)
    case MAP_GREATER: EACH(a > b)
    case MAP_GREATER_OR_EQUAL: EACH(a >= b)
    case MAP_AND: EACH(a != (T)0 && b != (T)0)
    case MAP_OR: EACH(a != (T)0 || b != (T)0)
    case MAP_XOR: EACH((a != (T)0) != (b != (T)0))
    case MAP_NOT: EACH(a == (T)0)
    case MAP_NEGATE: EACH(-a)
    case MAP_ABSOLUTE: EACH(a < (T)0 ? -a : a == (T)0 ? (T)0 : a)
    case MAP_SIGN: EACH(a > (T)0 ? (T)1 : a < (T)0 ? (T)-1 : a)
    case MAP_SELECT:
        _Pragma("unroll") for (int i = 0; i < V; i++) acc[i] = acc[i] != (T)0 ? src[i] : other[i];
        break;
    default: apply_own<V>(op, acc, src);
    }
}

template <class T, class S, int V>
__device__ __forceinline__ void read(T (&to)[V], const S *from, i64 offset, int step, bool is_vector) {
    if (V > 1 && is_vector) {
        Pack<S, V> pack = *(const Pack<S, V> *)(from + offset);
        _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = widen<T>(pack.at[i]);
    } else if (V > 1 && step == 0) {
        T one = widen<T>(from[offset]);
        _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = one;
    } else {
        _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = widen<T>(from[offset + (i64)i * step]);
    }
}

template <class S, class T, int V> __device__ __forceinline__ void write(S *to, const T (&from)[V]) {
    Pack<S, V> pack;
    _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = Narrow<S>::from(from[i]);
    *(Pack<S, V> *)to = pack;
}

template <class T, int V> __device__ __forceinline__ void copy_to(T (&to)[V], const T (&from)[V]) {
    _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = from[i];
}

__device__ __forceinline__ void find_position(const MapParams &p, u32 rank, u32 at, u32 (&position)[MAP_RANK]) {
    _Pragma("unroll") for (int d = 0; d < MAP_RANK; d++) position[d] = 0;
    if (p.positions == POSITIONS_NONE) return;
    _Pragma("unroll") for (int d = 0; d < MAP_RANK; d++) {
        if (d + 1 < rank) {
            u32 quotient = __umulhi(at, p.magic[d]) >> p.shift[d];
            position[d] = at - quotient * p.dims[d];
            at = quotient;
        } else if (d + 1 == rank) {
            position[d] = at;
        }
    }
}

__device__ __forceinline__ i64 operand_offset(const MapParams &p, u32 k, u32 at, const u32 (&position)[MAP_RANK]) {
    u32 place = p.place[k];
    if (place == PLACE_DENSE) return at;
    if (place == PLACE_ROW) return position[0];
    if (place == PLACE_COLUMN) return position[1];
    i64 offset = 0;
    if (place == PLACE_STRIDED) {
        _Pragma("unroll") for (int d = 0; d < MAP_RANK; d++)
            if (d < p.rank) offset += (i64)position[d] * p.strides[k][d];
    }
    return offset;
}

template <class T, int V>
__device__ __forceinline__ void map_elements(void *out, const void *p0, const void *p1, const void *p2, const void *p3,
                                             const void *p4, const void *p5, const void *p6, const void *p7,
                                             const MapParams &p) {
    begin_kernel();
    u32 at = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= p.total) return;
    u32 position[MAP_RANK];
    find_position(p, p.rank, at, position);
    T acc[V], t0[V], t1[V], t2[V], t3[V];
    _Pragma("unroll") for (int i = 0; i < V; i++) acc[i] = t0[i] = t1[i] = t2[i] = t3[i] = (T)0;
    for (u32 step = 0; step < p.length; step++) {
        MapCode code(p.code[step]);
        T src[V];
        if (code.source == SOURCE_OPERAND) {
            u32 k = code.index;
            const void *from = k < 4 ? (k < 2 ? (k == 0 ? p0 : p1) : (k == 2 ? p2 : p3))
                                     : (k < 6 ? (k == 4 ? p4 : p5) : (k == 6 ? p6 : p7));
            i64 offset = operand_offset(p, k, at, position);
            int inner = p.strides[k][0];
            bool is_vector = p.is_vector[k];
            FOR_DTYPE(p.dtypes[k], read(src, (const S *)from, offset, inner, is_vector);)
        } else if (code.source == SOURCE_TEMP) {
            if (code.index == 0) copy_to(src, t0);
            else if (code.index == 1) copy_to(src, t1);
            else if (code.index == 2) copy_to(src, t2);
            else copy_to(src, t3);
        } else {
            T value = code.source == SOURCE_CONSTANT ? constant_of<T>(p.constants[code.index]) : (T)0;
            _Pragma("unroll") for (int i = 0; i < V; i++) src[i] = value;
        }
        if (code.op == MAP_STORE) {
            if (code.temp == 0) copy_to(t0, acc);
            else if (code.temp == 1) copy_to(t1, acc);
            else if (code.temp == 2) copy_to(t2, acc);
            else copy_to(t3, acc);
        } else if (code.op == MAP_SELECT) {
            T other[V];
            if (code.temp == 0) copy_to(other, t0);
            else if (code.temp == 1) copy_to(other, t1);
            else if (code.temp == 2) copy_to(other, t2);
            else copy_to(other, t3);
            apply<T, V>(code.op, acc, src, other);
        } else {
            apply<T, V>(code.op, acc, src, src);
        }
    }
    FOR_DTYPE(p.out_dtype, write((S *)out + at, acc);)
}

// The same where no operand is strided.
__device__ __forceinline__ u32 simple_offset(u32 place, u32 at, u32 inner, u32 outer) {
    return place == PLACE_DENSE ? at : place == PLACE_ROW ? inner : place == PLACE_COLUMN ? outer : 0;
}

// The types of a light program: one, or several floats (of 16 bits) that the parameters tell.
struct AnyFloat {};
struct AnyShort {};
template <class Types> struct LightType {
    static constexpr int BYTES = 4; // of the widest
    static __device__ __forceinline__ u32 of(u32 given) { return given; }
};
template <> struct LightType<AnyShort> : LightType<AnyFloat> {
    static constexpr int BYTES = 2;
};
template <> struct LightType<float> {
    static constexpr int BYTES = 4;
    static __device__ __forceinline__ u32 of(u32) { return DTYPE_F32; }
};
template <> struct LightType<f16> {
    static constexpr int BYTES = 2;
    static __device__ __forceinline__ u32 of(u32) { return DTYPE_F16; }
};
template <> struct LightType<bf16> {
    static constexpr int BYTES = 2;
    static __device__ __forceinline__ u32 of(u32) { return DTYPE_BF16; }
};

// What a thread has read of an operand, as it lies in memory: V neighbours, or one element in the first word.
template <class Types, int V> struct Ahead {
    static constexpr int WORDS = V * LightType<Types>::BYTES / 4;
    u32 words[WORDS];

    __device__ __forceinline__ void read(const void *from, i64 offset, u32 k, const MapParams &p) {
        u32 dtype = LightType<Types>::of(p.dtypes[k]);
        if (LightType<Types>::BYTES == 4 && dtype == DTYPE_F32) {
            if (p.is_vector[k]) fill((const u32 *)from + offset, (Pack<u32, V> *)0);
            else words[0] = ((const u32 *)from)[offset];
        } else {
            if (p.is_vector[k]) fill((const u16 *)from + offset, (Pack<u32, V / 2> *)0);
            else words[0] = ((const u16 *)from)[offset];
        }
    }
    template <class E, int N> __device__ __forceinline__ void fill(const E *from, Pack<u32, N> *) {
        Pack<u32, N> pack = *(const Pack<u32, N> *)from;
        _Pragma("unroll") for (int i = 0; i < N; i++) words[i < WORDS ? i : 0] = pack.at[i];
    }

    // Element i. `none` is 0, which the compiler does not know: else it would open all operands before the program starts, and
    // there are no registers for that.
    __device__ __forceinline__ float at(int i, u32 dtype, u32 none) const {
        if (LightType<Types>::BYTES == 4 && dtype == DTYPE_F32) return __uint_as_float(words[i < WORDS ? i : 0] ^ none);
        u32 word = words[i / 2];
        if (dtype != DTYPE_BF16) return f16_to_f32((u16)((word ^ none) >> (i % 2 * 16)));
        return __uint_as_float(i % 2 ? word & (0xffff0000u ^ none) : word * (0x10000u ^ none));
    }
};

// A light program: floats only, no temporary, and the accumulator begins as operand 0, which is read ahead. A thread computes U
// packs of V elements, a block apart. HAS_SLOW: there may be operators that need more registers than the others; HAS_MORE:
// operands that are not read ahead.
template <class Types, int V, int U, bool HAS_SLOW, bool HAS_MORE>
__device__ __forceinline__ void map_light(void *out, const void *p0, const void *p1, const void *p2, const void *p3,
                                          const void *p4, const void *p5, const void *p6, const void *p7,
                                          const MapParams &p) {
    typedef LightType<Types> Type;
    constexpr bool IS_SHORT = Type::BYTES == 2;
    begin_kernel();
    u32 start = (blockIdx.x * 256 * U + threadIdx.x) * V;
    // Packs behind the end compute the last one and are not written.
    auto place_of = [&](int u) { return start + u * 256 * V < p.total ? start + u * 256 * V : p.total - V; };
    Ahead<Types, V> ahead0[U], ahead1[U], ahead2[U];
    _Pragma("unroll") for (int u = 0; u < U; u++) {
        u32 at = place_of(u);
        if (p.positions == POSITIONS_ALL) {
            u32 position[MAP_RANK];
            find_position(p, p.rank, at, position);
            if (p.ahead > 0) ahead0[u].read(p0, operand_offset(p, 0, at, position), 0, p);
            if (p.ahead > 1) ahead1[u].read(p1, operand_offset(p, 1, at, position), 1, p);
            if (p.ahead > 2) ahead2[u].read(p2, operand_offset(p, 2, at, position), 2, p);
        } else {
            u32 inner = 0, outer = 0;
            if (p.positions != POSITIONS_NONE) {
                u32 quotient = __umulhi(at, p.magic[0]) >> p.shift[0];
                inner = at - quotient * p.dims[0];
                outer = quotient - (__umulhi(quotient, p.magic[1]) >> p.shift[1]) * p.dims[1];
            }
            if (p.ahead > 0) ahead0[u].read(p0, simple_offset(p.place[0], at, inner, outer), 0, p);
            if (p.ahead > 1) ahead1[u].read(p1, simple_offset(p.place[1], at, inner, outer), 1, p);
            if (p.ahead > 2) ahead2[u].read(p2, simple_offset(p.place[2], at, inner, outer), 2, p);
        }
    }
    float acc[U * V];
    u32 next = p.code[0], none = (u32)((int)next >> 24), is_pack = p.is_vector[0];
    _Pragma("unroll") for (int i = 0; i < U * V; i++) {
        const Ahead<Types, V> &ahead = ahead0[i / V];
        u32 dtype = Type::of(p.dtypes[0]);
        acc[i] = is_pack ? ahead.at(i % V, dtype, none) : ahead.at(0, dtype, none);
    }
    for (u32 step = 0; step < p.length; step++) {
        MapCode code(next);
        none = (u32)((int)next >> 24); // code.temp, of which the compiler knows nothing; 0
        next = p.code[step + 1];
        float src[U * V];
        if (code.source == SOURCE_AHEAD_PACK) {
            u32 dtype = Type::of(p.dtypes[code.index]);
            auto open = [&](const Ahead<Types, V>(&ahead)[U]) {
                _Pragma("unroll") for (int i = 0; i < U * V; i++) src[i] = ahead[i / V].at(i % V, dtype, none);
            };
            if (code.index == 0) open(ahead0);
            else if (code.index == 1) open(ahead1);
            else open(ahead2);
        } else if (!HAS_MORE || code.source != SOURCE_OPERAND) {
            float one[U];
            if (code.source != SOURCE_AHEAD_ONE) {
                _Pragma("unroll") for (int u = 0; u < U; u++) one[u] = constant_of<float>(p.constants[code.index]);
            } else {
                u32 dtype = Type::of(p.dtypes[code.index]);
                auto open = [&](const Ahead<Types, V>(&ahead)[U]) {
                    _Pragma("unroll") for (int u = 0; u < U; u++) one[u] = ahead[u].at(0, dtype, none);
                };
                if (code.index == 0) open(ahead0);
                else if (code.index == 1) open(ahead1);
                else open(ahead2);
            }
            _Pragma("unroll") for (int i = 0; i < U * V; i++) src[i] = one[i / V];
            // Here, so that `one` needs no copies; with slow operators there are no registers for all of them twice.
            if (!HAS_SLOW) {
                apply_light<IS_SHORT, false>(code.op, acc, src);
                continue;
            }
        } else {
            u32 k = code.index;
            const void *from = k < 4 ? (k < 2 ? (k == 0 ? p0 : p1) : (k == 2 ? p2 : p3))
                                     : (k < 6 ? (k == 4 ? p4 : p5) : (k == 6 ? p6 : p7));
            _Pragma("unroll") for (int u = 0; u < U; u++) {
                u32 at = place_of(u);
                u32 position[MAP_RANK];
                find_position(p, p.rank ^ none, at, position);
                i64 offset = operand_offset(p, k, at, position);
                float one[V];
                FOR_FLOAT(Type::of(p.dtypes[k]), read(one, (const S *)from, offset, p.strides[k][0], p.is_vector[k]);)
                _Pragma("unroll") for (int i = 0; i < V; i++) src[u * V + i] = one[i];
            }
        }
        if (HAS_SLOW) apply_light<IS_SHORT>(code.op, acc, src);
        else apply_pairs<false>(code.op, acc, src);
    }
    _Pragma("unroll") for (int u = 0; u < U; u++) {
        u32 at = start + u * 256 * V;
        if (at >= p.total) continue;
        float one[V];
        _Pragma("unroll") for (int i = 0; i < V; i++) one[i] = acc[u * V + i];
        FOR_FLOAT(Type::of(p.out_dtype), write((S *)out + at, one);)
    }
}

#define MAP_KERNEL(NAME, T, V)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
        NAME(void *out, const void *p0, const void *p1, const void *p2, const void *p3, const void *p4,             \
             const void *p5, const void *p6, const void *p7, const __grid_constant__ MapParams p) {                 \
        map_elements<T, V>(out, p0, p1, p2, p3, p4, p5, p6, p7, p);                                                 \
    }

#define MAP_LIGHT(NAME, S, V, U, HAS_SLOW, HAS_MORE, BLOCKS)                                                        \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS)                                                       \
        NAME(void *out, const void *p0, const void *p1, const void *p2, const void *p3, const void *p4,             \
             const void *p5, const void *p6, const void *p7, const __grid_constant__ MapParams p) {                 \
        map_light<S, V, U, HAS_SLOW, HAS_MORE>(out, p0, p1, p2, p3, p4, p5, p6, p7, p);                             \
    }

MAP_KERNEL(elementwise_f32_v1, float, 1)
MAP_KERNEL(elementwise_f32_v4, float, 4)
MAP_KERNEL(elementwise_f64_v1, double, 1)
MAP_KERNEL(elementwise_i64_v1, i64, 1)
MAP_KERNEL(elementwise_i64_v4, i64, 4)
MAP_LIGHT(elementwise_light_v4, AnyFloat, 4, 1, true, true, 4)
MAP_LIGHT(elementwise_light_v8, AnyFloat, 8, 1, true, true, 4)
MAP_LIGHT(elementwise_light_short_v8, AnyShort, 8, 2, false, true, 3)
MAP_LIGHT(elementwise_light_f32_v4, float, 4, 2, false, false, 5)
MAP_LIGHT(elementwise_light_f16_v8, f16, 8, 2, false, false, 4)
MAP_LIGHT(elementwise_light_bf16_v8, bf16, 8, 2, false, false, 4)
