//! The commonest element-wise programs, compiled: one or two operators over floats of one type.
//!
//! result = op2(op1(a, b), c): b and c are operands or constants. An operand is dense, or is broadcast along the inner
//! dimension, along the outer ones or along all. A thread reads everything it needs, 16 bytes at a time, then computes.

#define PLACE_DENSE 0  // at the result's own place
#define PLACE_FRONT 1  // one element for all
#define PLACE_ROW 2    // [inner]: the same in every row
#define PLACE_COLUMN 3 // [outer]: one element for each run of `inner`, again and again
#define PLACE_CONSTANT 4

struct PointwiseParams {
    u32 total, inner, outer;
    u32 inner_magic, inner_shift, outer_magic, outer_shift; // division: (n * magic) >> (32 + shift)
    u32 places[3];
    float constants[2]; // of b and c
};

template <class S, int V>
__device__ __forceinline__ Raw<S, V> pick(const S *from, u32 place, u32 at, u32 quotient, u32 column,
                                          const PointwiseParams &p) {
    if (place == PLACE_DENSE) return load_raw<S, V>(from + at);
    if (place == PLACE_ROW) return load_raw<S, V>(from + (at - quotient * p.inner));
    if (place == PLACE_CONSTANT) return repeated<S, V>(S());
    return repeated<S, V>(from[place == PLACE_FRONT ? 0 : column]);
}

template <class S, int V>
__device__ __forceinline__ void open_or_fill(float (&to)[V], const Raw<S, V> &raw, u32 place, float constant) {
    open_pack<float, S, V>(to, raw);
    if (place == PLACE_CONSTANT)
        _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = constant;
}

// OP2 is MAP_STORE where there is one operator only.
template <class S, u32 OP1, u32 OP2>
__device__ __forceinline__ void pointwise(S *out, const S *a, const S *b, const S *c, const PointwiseParams &p) {
    constexpr int V = 16 / sizeof(S);
    constexpr bool IS_SHORT = sizeof(S) == 2;
    begin_kernel();
    u32 at = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= p.total) return;
    u32 quotient = 0, column = 0;
    if (p.inner < p.total) {
        quotient = __umulhi(at, p.inner_magic) >> p.inner_shift;
        column = p.outer > 1 ? quotient - (__umulhi(quotient, p.outer_magic) >> p.outer_shift) * p.outer : 0;
    }
    Raw<S, V> first = pick<S, V>(a, p.places[0], at, quotient, column, p);
    Raw<S, V> second = pick<S, V>(b, p.places[1], at, quotient, column, p), third;
    if (OP2 != MAP_STORE) third = pick<S, V>(c, p.places[2], at, quotient, column, p);
    float acc[V], src[V];
    open_pack<float, S, V>(acc, first);
    open_or_fill<S, V>(src, second, p.places[1], p.constants[0]);
    apply_light<IS_SHORT>(OP1, acc, src);
    if (OP2 != MAP_STORE) {
        open_or_fill<S, V>(src, third, p.places[2], p.constants[1]);
        apply_light<IS_SHORT>(OP2, acc, src);
    }
    write_pack<float, S, V>(out + at, acc);
}

#define POINTWISE_KERNEL(NAME, S, OP1, OP2)                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        NAME(void *out, const void *a, const void *b, const void *c, const __grid_constant__ PointwiseParams p) { \
        pointwise<S, OP1, OP2>((S *)out, (const S *)a, (const S *)b, (const S *)c, p);                            \
    }

// POINTWISE_PROGRAMS(DO) does DO(name, first operator, second operator) for each program; the planner lists them.
#define POINTWISE_FLOATS(NAME, OP1, OP2)                     \
    POINTWISE_KERNEL(pointwise_##NAME##_f32, float, OP1, OP2) \
    POINTWISE_KERNEL(pointwise_##NAME##_f16, f16, OP1, OP2)  \
    POINTWISE_KERNEL(pointwise_##NAME##_bf16, bf16, OP1, OP2)

POINTWISE_PROGRAMS(POINTWISE_FLOATS)
