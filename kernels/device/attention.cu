//! Attention without matrix units: any head size, mask and element type. The reference for the fast kernels, and what
//! serves the problems that those do not take.
//!
//! A block of 256 threads computes one row of one head. It walks the keys in runs of 256: a thread scores one key, then
//! the threads share out the columns of the values. Maximum, sum and result follow run by run.

#define ATTENTION_COLUMNS 4 // of a value row for one thread: 1024 columns at most

struct AttentionParams {
    i64 q_batch, q_row, q_head; // strides in elements; columns are neighbours
    i64 k_batch, k_row, k_head; // a paged cache: k_batch from page to page
    i64 v_batch, v_row, v_head;
    i64 out_batch, out_row, out_head;
    i64 mask_batch, mask_head, mask_row;
    u32 batch, heads, kv_heads;
    u32 q_len, kv_len; // at most
    u32 head_qk, head_v;
    u32 causal; // 0: all keys; 1: up to row + keys - rows; 2: the same, never below row; 3: up to row + offset
    int offset;
    int window_left;   // keys in front of the last one that the causal rule would allow; negative: all
    u32 length_kind;   // 0: kv_len; 1: i32; 2: i64
    int length_bias;
    u32 length_adds_q;
    u32 page_rows, table_columns; // 0 page rows: contiguous
    u32 mask_kind;                // 0: none; 1: added, of the element type; 2: boolean; 3: added, f32
    u32 mask_columns;
    u32 has_sinks;
    float scale, soft_cap; // soft cap 0: none
};

template <class S>
__device__ __forceinline__ void attention_row(S *out, const S *q, const S *k, const S *v, const void *lengths,
                                              const int *q_offsets, const int *table, const void *mask,
                                              const float *sinks, const AttentionParams &p) {
    __shared__ float query[1024];
    __shared__ float weights[256];
    __shared__ float space[256 / WAVE];
    const float none = -__uint_as_float(0x7f800000u);
    u32 row = blockIdx.x, head = blockIdx.y, b = blockIdx.z;
    u32 q_start = q_offsets ? (u32)q_offsets[b] : 0;
    u32 q_len = q_offsets ? (u32)q_offsets[b + 1] - q_start : p.q_len;
    if (row >= q_len) return;
    i64 keys = p.kv_len;
    if (p.length_kind == 1) keys = ((const int *)lengths)[b] + (i64)p.length_bias;
    if (p.length_kind == 2) keys = ((const i64 *)lengths)[b] + (i64)p.length_bias;
    if (p.length_kind && p.length_adds_q) keys += q_len;
    keys = keys < 0 ? 0 : keys > (i64)p.kv_len ? (i64)p.kv_len : keys;
    i64 offset = p.causal == 3 ? (i64)p.offset : keys - (i64)q_len;
    if (p.causal == 2 && offset < 0) offset = 0;
    i64 end = keys, begin = 0;
    if (p.causal && (i64)row + offset + 1 < end) end = (i64)row + offset + 1;
    if (p.window_left >= 0 && (i64)row + offset - p.window_left > 0) begin = (i64)row + offset - p.window_left;

    const S *q_row = q + (q_offsets ? (i64)0 : (i64)b * p.q_batch) + ((i64)q_start + row) * p.q_row + head * p.q_head;
    S *out_row = out + (q_offsets ? (i64)0 : (i64)b * p.out_batch) + ((i64)q_start + row) * p.out_row + head * p.out_head;
    u32 kv_head = head / (p.heads / p.kv_heads);
    for (u32 c = threadIdx.x; c < p.head_qk; c += 256) query[c] = widen<float>(q_row[c]) * p.scale;
    __syncthreads();

    float sum = 0.0f, top = none;
    float result[ATTENTION_COLUMNS] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (sinks) {
        top = sinks[head];
        sum = 1.0f;
    }
    for (i64 start = begin; start < end; start += 256) {
        i64 key = start + threadIdx.x;
        float score = none;
        if (key < end) {
            i64 page = p.page_rows ? (i64)table[(i64)b * p.table_columns + (u32)key / p.page_rows] : (i64)b;
            i64 line = p.page_rows ? (u32)key % p.page_rows : key;
            const S *k_row = k + page * p.k_batch + line * p.k_row + kv_head * p.k_head;
            score = 0.0f;
            for (u32 c = 0; c < p.head_qk; c++) score += query[c] * widen<float>(k_row[c]);
            if (p.soft_cap != 0.0f) score = p.soft_cap * tanhf(score / p.soft_cap);
            if (p.mask_kind) {
                i64 at = b * p.mask_batch + head * p.mask_head + row * p.mask_row + key;
                // Keys past the mask's columns are hidden.
                if (key >= (i64)p.mask_columns) score = none;
                else if (p.mask_kind == 1) score += widen<float>(((const S *)mask)[at]);
                else if (p.mask_kind == 2) score = ((const u8 *)mask)[at] ? score : none;
                else score += ((const float *)mask)[at];
            }
        }
        float highest = over_row<256>(score, space, Greater());
        float next = highest > top ? highest : top;
        float weight = score == none ? 0.0f : expf(score - next);
        float added = over_row<256>(weight, space, Added());
        weights[threadIdx.x] = weight;
        __syncthreads();
        float kept = top == none ? 0.0f : expf(top - next);
        if (next == none) kept = 1.0f;
        sum = sum * kept + added;
        top = next;
        i64 count = end - start < 256 ? end - start : 256;
        for (int i = 0; i < ATTENTION_COLUMNS; i++) result[i] *= kept;
        for (i64 n = 0; n < count; n++) {
            float w = weights[n];
            if (w == 0.0f) continue;
            i64 at = start + n;
            i64 page = p.page_rows ? (i64)table[(i64)b * p.table_columns + (u32)at / p.page_rows] : (i64)b;
            i64 line = p.page_rows ? (u32)at % p.page_rows : at;
            const S *v_row = v + page * p.v_batch + line * p.v_row + kv_head * p.v_head;
            for (int i = 0; i < ATTENTION_COLUMNS; i++) {
                u32 column = threadIdx.x + 256 * i;
                if (column < p.head_v) result[i] += w * widen<float>(v_row[column]);
            }
        }
    }
    for (int i = 0; i < ATTENTION_COLUMNS; i++) {
        u32 column = threadIdx.x + 256 * i;
        if (column < p.head_v) out_row[column] = Narrow<S>::from(sum > 0.0f ? result[i] / sum : 0.0f);
    }
}

#define ATTENTION_KERNEL(SUFFIX, S)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        attention_plain_##SUFFIX(void *out, const void *q, const void *k, const void *v, const void *lengths,    \
                                 const void *q_offsets, const void *table, const void *sinks, const void *mask,  \
                                 const __grid_constant__ AttentionParams p) {                                    \
        begin_kernel();                                                                                          \
        attention_row<S>((S *)out, (const S *)q, (const S *)k, (const S *)v, lengths, (const int *)q_offsets,    \
                         (const int *)table, mask, (const float *)sinks, p);                                     \
    }

ATTENTION_KERNEL(f32, float)
ATTENTION_KERNEL(f16, f16)
ATTENTION_KERNEL(bf16, bf16)
