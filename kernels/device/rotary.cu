//! Rotary position embedding of query and key rows, and the way of new key and value rows into a cache: one pass over
//! what the projections gave.
//!
//! A part (queries, keys, values) is read by strides and written by strides; a part that is appended goes to the rows of
//! its sequence behind those that were there. A thread takes V neighbouring slots of a head: slot s is the pair that is
//! turned by angle s, and past the rotated columns two plain elements.

struct RotaryPart {
    i64 in_batch, in_row, in_head; // strides in elements
    i64 out_batch, out_row, out_head;
    u32 heads;
    u32 is_turned;
    u32 is_appended;
    u32 room; // rows of the target that a sequence has
};

struct RotaryParams {
    RotaryPart parts[3];
    u32 batch, rows, columns; // columns: of a head, even
    u32 half;                 // angles of a position
    u32 is_interleaved;
    u32 angles;               // positions that the tables hold
    u32 angle_dtype;
    u32 position_step;        // 0: positions[0] + row; 1: a position a token
    u32 position_mode;        // 0: behind the past; 1: i64 operand; 2: the token's number
    u32 has_lengths;
    int length_bias; // a sequence has lengths[b] + bias rows once the new ones are in
};

__device__ __forceinline__ float table_angle(const void *table, i64 at, u32 dtype) {
    if (dtype == DTYPE_F32) return ((const float *)table)[at];
    if (dtype == DTYPE_F16) return widen<float>(((const f16 *)table)[at]);
    return widen<float>(((const bf16 *)table)[at]);
}

template <class S> __device__ __forceinline__ void turn(S &x_at, S &y_at, float c, float s) {
    float x = widen<float>(x_at), y = widen<float>(y_at);
    x_at = Narrow<S>::from(x * c - y * s);
    y_at = Narrow<S>::from(x * s + y * c);
}

// The one of three addresses that belongs to a part.
template <class P> __device__ __forceinline__ P of_part(u32 which, P q, P k, P v) {
    return which == 0 ? q : which == 1 ? k : v;
}

template <class S, int V>
__device__ __forceinline__ void rotary(S *q_out, S *k_out, S *v_out, const S *q, const S *k, const S *v,
                                       const void *cosines, const void *sines, const i64 *positions,
                                       const int *lengths, const RotaryParams &p) {
    typedef Pack<S, V> Line;
    u32 groups = p.columns / 2 / V;
    u32 heads = p.parts[0].heads + p.parts[1].heads + p.parts[2].heads;
    u32 at = blockIdx.x * 256 + threadIdx.x;
    u32 slot = at % groups * V, head = at / groups % heads;
    u32 token = at / groups / heads;
    u32 b = token / p.rows, row = token % p.rows;
    if (b >= p.batch) return;
    u32 which = 0;
    if (head >= p.parts[0].heads) head -= p.parts[0].heads, which = 1;
    if (which == 1 && head >= p.parts[1].heads) head -= p.parts[1].heads, which = 2;
    const RotaryPart &part = p.parts[which];
    int length = p.has_lengths ? lengths[b] + p.length_bias : (int)p.rows;
    int fresh = length < (int)p.rows ? length : (int)p.rows;
    u32 past = (u32)(length - fresh);
    u32 to_row = part.is_appended ? past + row : row;
    if (part.is_appended && ((int)row >= fresh || to_row >= part.room)) return;
    const S *from = of_part(which, q, k, v) + b * part.in_batch + row * part.in_row + head * part.in_head;
    S *to = of_part(which, q_out, k_out, v_out) + b * part.out_batch + to_row * part.out_row + head * part.out_head;
    bool is_pair = slot < p.half;
    // Interleaved pairs and plain elements lie beside each other, the others half a rotation apart.
    bool is_split = is_pair && !p.is_interleaved;
    u32 first = is_split ? slot : 2 * slot, second = is_split ? slot + p.half : 2 * slot + V;
    Line low = load_pack<S, V>(from + first), high = load_pack<S, V>(from + second);
    if (is_pair && part.is_turned) {
        i64 position = p.position_mode == 2 ? (i64)token : (i64)(past + row);
        if (p.position_mode == 1) position = positions[p.position_step ? token : 0] + (p.position_step ? 0 : row);
        position = position < 0 ? 0 : position >= (i64)p.angles ? (i64)p.angles - 1 : position;
        float both[2 * V], turned[2 * V]; // of the pairs, the first elements in front
#pragma unroll
        for (int i = 0; i < V; i++) {
            float l = widen<float>(low.at[i]), h = widen<float>(high.at[i]);
            if (!p.is_interleaved) both[i] = l, both[V + i] = h;
        }
        if (p.is_interleaved) {
#pragma unroll
            for (int i = 0; i < 2 * V; i++) {
                float x = widen<float>(i < V ? low.at[i % V] : high.at[i % V]);
                both[i % 2 * V + i / 2] = x;
            }
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            float c = table_angle(cosines, position * p.half + slot + i, p.angle_dtype);
            float s = table_angle(sines, position * p.half + slot + i, p.angle_dtype);
            turned[i] = both[i] * c - both[V + i] * s;
            turned[V + i] = both[i] * s + both[V + i] * c;
        }
        if (p.is_interleaved) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                low.at[i] = Narrow<S>::from(turned[i % 2 * V + i / 2]);
                high.at[i] = Narrow<S>::from(turned[(V + i) % 2 * V + (V + i) / 2]);
            }
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) {
                low.at[i] = Narrow<S>::from(turned[i]);
                high.at[i] = Narrow<S>::from(turned[V + i]);
            }
        }
    }
    *(Line *)(to + first) = low;
    *(Line *)(to + second) = high;
}

#define ROTARY_KERNEL(SUFFIX, S, V)                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        rotary_##SUFFIX##_v##V(void *q_out, void *k_out, void *v_out, const void *q, const void *k,               \
                               const void *v, const void *cosines, const void *sines, const void *positions,      \
                               const void *lengths, const __grid_constant__ RotaryParams p) {                     \
        begin_kernel();                                                                                           \
        rotary<S, V>((S *)q_out, (S *)k_out, (S *)v_out, (const S *)q, (const S *)k, (const S *)v, cosines,      \
                     sines, (const i64 *)positions, (const int *)lengths, p);                                     \
    }

ROTARY_KERNEL(f32, float, 1)
ROTARY_KERNEL(f16, f16, 1)
ROTARY_KERNEL(bf16, bf16, 1)
ROTARY_KERNEL(f32, float, 4)
ROTARY_KERNEL(f16, f16, 4)
ROTARY_KERNEL(bf16, bf16, 4)
