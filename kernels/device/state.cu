//! Operators that carry a state from call to call: a depthwise causal convolution, whose state is the last inputs, and
//! linear attention, whose state is a matrix for each head. All of it is computed in float.

struct CausalConvParams {
    u32 total;                      // elements of the result
    u32 channels, length, taps;
    u32 dilation, history;          // positions of the past: (taps - 1) * dilation
    u32 is_channels_last, has_silu;
};

// Position `at` of a line of the sequence that starts with the history.
template <class S>
__device__ __forceinline__ S sequence_at(const S *x, const S *past, u32 line, u32 at, const CausalConvParams &p) {
    bool is_past = at < p.history;
    const S *from = is_past ? past : x;
    if (!from) return Narrow<S>::from(0.0f);
    u32 length = is_past ? p.history : p.length, position = is_past ? at : at - p.history;
    i64 place = p.is_channels_last ? ((i64)(line / p.channels) * length + position) * p.channels + line % p.channels
                                   : (i64)line * length + position;
    return from[place];
}

// A thread an element of the result, then one an element of the new state.
template <class S>
__device__ __forceinline__ void causal_conv(S *y, S *present, const S *x, const S *weights, const S *bias,
                                            const S *past, u32 states, const CausalConvParams &p) {
    begin_kernel();
    u32 element = blockIdx.x * blockDim.x + threadIdx.x;
    if (element >= p.total + states) return;
    bool is_state = element >= p.total;
    u32 at = is_state ? element - p.total : element, length = is_state ? p.history : p.length;
    u32 line = p.is_channels_last ? at / p.channels / length * p.channels + at % p.channels : at / length;
    u32 position = p.is_channels_last ? at / p.channels % length : at % length;
    if (is_state) {
        present[at] = sequence_at(x, past, line, p.length + position, p);
        return;
    }
    u32 channel = line % p.channels;
    float sum = bias ? widen<float>(bias[channel]) : 0.0f;
    for (u32 tap = 0; tap < p.taps; tap++)
        sum += widen<float>(weights[channel * p.taps + tap]) *
               widen<float>(sequence_at(x, past, line, position + tap * p.dilation, p));
    if (p.has_silu) sum = sum / (1.0f + expf(-sum));
    y[at] = Narrow<S>::from(sum);
}

struct LinearParams {
    u32 steps, heads, k_heads, q_heads, out_heads;
    u32 dk, dv, tiles;                  // rows and columns of a state; tiles of 32 columns
    u32 decay_width, beta_width;        // values a token; 0 where there are none
    float scale;
};

#define LINEAR_COLUMNS 32
#define LINEAR_GROUPS 8 // of threads, among which the rows of a state are dealt out

// What each column's threads hold, added up and known to all of them.
__device__ __forceinline__ float column_sum(float v, float (*space)[LINEAR_COLUMNS], u32 group, u32 column) {
    space[group][column] = v;
    __syncthreads();
    float sum = 0.0f;
    _Pragma("unroll") for (int i = 0; i < LINEAR_GROUPS; i++) sum += space[i][column];
    __syncthreads();
    return sum;
}

// A block 32 columns of one state, which do not depend on others: each thread holds every eighth row of a column.
template <class S, class P, int PARTS>
__device__ __forceinline__ void linear_attention(S *y, P *present, const S *q, const S *k, const S *v, const P *past,
                                                 const S *decay, const S *beta, const LinearParams &p) {
    begin_kernel();
    __shared__ float keys[PARTS * LINEAR_GROUPS], gates[PARTS * LINEAR_GROUPS], queries[PARTS * LINEAR_GROUPS];
    __shared__ float space[LINEAR_GROUPS][LINEAR_COLUMNS];
    u32 column = threadIdx.x % LINEAR_COLUMNS, group = threadIdx.x / LINEAR_COLUMNS;
    u32 which = blockIdx.x / p.tiles, head = which % p.heads, batch = which / p.heads;
    u32 j = blockIdx.x % p.tiles * LINEAR_COLUMNS + column;
    bool is_inside = j < p.dv;
    i64 own = (i64)which * p.dk * p.dv + (is_inside ? j : p.dv - 1);
    float state[PARTS];
    _Pragma("unroll") for (int i = 0; i < PARTS; i++) {
        // The last row stands for those that there are not.
        u32 d = i * LINEAR_GROUPS + group, row = d < p.dk ? d : p.dk - 1;
        state[i] = past ? widen<float>(past[own + (i64)row * p.dv]) : 0.0f;
    }
    _Pragma("unroll") for (int i = 0; i < PARTS; i++) {
        if (i * LINEAR_GROUPS + group >= p.dk) state[i] = 0.0f;
    }
    u32 readers = p.out_heads / p.heads, shares = p.out_heads / p.q_heads;
    for (u32 t = 0; t < p.steps; t++) {
        i64 token = (i64)batch * p.steps + t;
        const S *from = k + (token * p.k_heads + head / (p.heads / p.k_heads)) * p.dk;
        for (u32 d = threadIdx.x; d < PARTS * LINEAR_GROUPS; d += blockDim.x) {
            bool is_row = d < p.dk;
            keys[d] = is_row ? widen<float>(from[d]) : 0.0f;
            u32 gate = p.decay_width == p.heads ? head : head * p.dk + d;
            gates[d] = is_row && p.decay_width ? expf(widen<float>(decay[token * p.decay_width + gate])) : 1.0f;
        }
        __syncthreads();
        float value = is_inside ? widen<float>(v[(token * p.heads + head) * p.dv + j]) : 0.0f, memory = 0.0f;
        _Pragma("unroll") for (int i = 0; i < PARTS; i++) {
            state[i] *= gates[i * LINEAR_GROUPS + group];
            memory += state[i] * keys[i * LINEAR_GROUPS + group];
        }
        if (p.beta_width) {
            float rate = widen<float>(beta[token * p.beta_width + (p.beta_width == 1 ? 0 : head)]);
            value = (value - column_sum(memory, space, group, column)) * rate;
        }
        _Pragma("unroll") for (int i = 0; i < PARTS; i++) state[i] += keys[i * LINEAR_GROUPS + group] * value;
        for (u32 reader = head * readers; reader < (head + 1) * readers; reader++) {
            const S *query = q + (token * p.q_heads + reader / shares) * p.dk;
            for (u32 d = threadIdx.x; d < PARTS * LINEAR_GROUPS; d += blockDim.x)
                queries[d] = d < p.dk ? widen<float>(query[d]) : 0.0f;
            __syncthreads();
            float sum = 0.0f;
            _Pragma("unroll") for (int i = 0; i < PARTS; i++) sum += queries[i * LINEAR_GROUPS + group] * state[i];
            sum = column_sum(sum, space, group, column);
            if (group == 0 && is_inside) y[(token * p.out_heads + reader) * p.dv + j] = Narrow<S>::from(sum * p.scale);
        }
    }
    if (!present || !is_inside) return;
    int rows = (int)p.dk - (int)group;
    _Pragma("unroll") for (int i = 0; i < PARTS; i++) {
        if (rows <= 0) break;
        present[own + (i64)(i * LINEAR_GROUPS + group) * p.dv] = Narrow<P>::from(state[i]);
        rows -= LINEAR_GROUPS;
    }
}

// Rows of a state at most: LINEAR_ROWS.
#define CAUSAL_KERNEL(SUFFIX, S)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                           \
        causal_conv_##SUFFIX(void *y, void *present, const void *x, const void *weights, const void *bias,      \
                             const void *past, u32 states, const __grid_constant__ CausalConvParams p) {        \
        causal_conv((S *)y, (S *)present, (const S *)x, (const S *)weights, (const S *)bias, (const S *)past,   \
                    states, p);                                                                                 \
    }
#define LINEAR_KERNEL(SUFFIX, S, P)                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                           \
        linear_attention_##SUFFIX(void *y, void *present, const void *q, const void *k, const void *v,          \
                                  const void *past, const void *decay, const void *beta,                        \
                                  const __grid_constant__ LinearParams p) {                                     \
        linear_attention<S, P, LINEAR_ROWS / LINEAR_GROUPS>((S *)y, (P *)present, (const S *)q, (const S *)k,            \
                                                   (const S *)v, (const P *)past, (const S *)decay,             \
                                                   (const S *)beta, p);                                         \
    }

CAUSAL_KERNEL(f32, float)
CAUSAL_KERNEL(f16, f16)
CAUSAL_KERNEL(bf16, bf16)
LINEAR_KERNEL(f32_f32, float, float)
LINEAR_KERNEL(f16_f16, f16, f16)
LINEAR_KERNEL(f16_f32, f16, float)
LINEAR_KERNEL(bf16_bf16, bf16, bf16)
LINEAR_KERNEL(bf16_f32, bf16, float)
