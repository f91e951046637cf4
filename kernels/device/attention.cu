//! Attention without matrix units: any head size, mask, cache and element type. The reference for the fast kernels, and
//! what serves the problems that those do not take.
//!
//! A block of 256 threads computes one row of one head. It walks the keys in runs of 256: a thread scores one key, then
//! the threads share out the columns of the values. Maximum, sum and result follow run by run.

#define ATTENTION_COLUMNS 4 // of a value row for one thread: 1024 columns at most

#define MASK_ELEMENT 1 // added, of the element type
#define MASK_BOOL 2    // bytes: not zero where a row may look
#define MASK_F32 3     // added

#define PADDING_ROWS 1   // numbers: zero is a padding
#define PADDING_ENDS 2   // one past the last key of each sequence
#define PADDING_RANGES 3 // the ends of all sequences, then their first keys

#define SCORES_RAW 0
#define SCORES_CAPPED 1
#define SCORES_MASKED 2
#define SCORES_WEIGHTS 3

struct AttentionParams {
    i64 q_batch, q_row, q_head; // strides in elements (of a coded cache: in codes); columns are neighbours
    i64 k_batch, k_row, k_head; // a paged cache: k_batch from page to page
    i64 v_batch, v_row, v_head;
    i64 out_batch, out_row, out_head;
    i64 mask_batch, mask_head, mask_row;
    i64 padding_batch, padding_row;
    i64 scores_batch, scores_head, scores_row;
    u32 batch, heads, kv_heads;
    u32 q_len, kv_len; // at most
    u32 head_qk, head_v;
    u32 causal; // 0: all keys; 1: up to row + keys - rows; 2: the same, never below row; 3: up to row + offset
    int offset;
    int window_left;   // keys in front of the last one that the causal rule would allow; negative: all
    u32 length_kind;   // 0: kv_len; 1: i32; 2: i64
    int length_bias;
    u32 length_adds_q;
    u32 page_rows, page_magic, page_shift, table_columns; // 0 page rows: contiguous
    u32 mask_kind;
    u32 mask_columns;
    u32 padding_kind, padding_past; // keys before padding_past are none of PADDING_ROWS' columns
    u32 has_sinks;
    u32 cache_code, scale_kind;
    u32 scores_mode, scores_keys;
    float scale, soft_cap, inverse_cap; // soft cap 0: none
    float padding_filter;  // added to the scores of paddings
    float hidden_score;    // handed out for keys that a row does not see
};

template <class S> struct AttentionOperands {
    const S *q;
    const void *k, *v, *lengths;
    const int *q_offsets, *table;
    const void *mask;
    const int *padding;
    const float *sinks, *k_scales, *v_scales;
};

/// One query row of a head, the keys [begin, end) that it may see, and what belongs to it of every operand.
template <class S, bool kIsCoded> struct AttentionRow {
    const AttentionParams &p;
    float *query; // scaled, [head_qk] in shared memory
    u32 row, head, kv_head, b, q_start, q_len;
    i64 begin, end;
    const S *q;
    const u8 *k, *v; // of the head, and of the sequence where there are no pages
    const int *pages;
    const u8 *mask;
    const int *padding;

    __device__ __forceinline__ AttentionRow(const AttentionOperands<S> &o, const AttentionParams &params, float *space)
        : p(params), query(space), row(blockIdx.x), head(blockIdx.y), b(blockIdx.z) {
        kv_head = head / (p.heads / p.kv_heads);
        q_start = o.q_offsets ? (u32)o.q_offsets[b] : 0;
        q_len = o.q_offsets ? (u32)o.q_offsets[b + 1] - q_start : p.q_len;
        i64 keys = p.kv_len;
        if (p.length_kind == 1) keys = ((const int *)o.lengths)[b] + (i64)p.length_bias;
        if (p.length_kind == 2) keys = ((const i64 *)o.lengths)[b] + (i64)p.length_bias;
        if (p.length_kind && p.length_adds_q) keys += q_len;
        keys = keys < 0 ? 0 : keys > (i64)p.kv_len ? (i64)p.kv_len : keys;
        i64 offset = p.causal == 3 ? (i64)p.offset : keys - (i64)q_len;
        if (p.causal == 2 && offset < 0) offset = 0;
        end = keys, begin = 0;
        if (p.causal && (i64)row + offset + 1 < end) end = (i64)row + offset + 1;
        if (p.window_left >= 0 && (i64)row + offset - p.window_left > 0) begin = (i64)row + offset - p.window_left;
        q = o.q + (o.q_offsets ? (i64)0 : (i64)b * p.q_batch) + ((i64)q_start + row) * p.q_row + head * p.q_head;
        k = head_of(o.k, p.k_batch, p.k_head);
        v = head_of(o.v, p.v_batch, p.v_head);
        pages = o.table + (i64)b * p.table_columns;
        i64 in_mask = b * p.mask_batch + head * p.mask_head + row * p.mask_row;
        mask = (const u8 *)o.mask + in_mask * (p.mask_kind == MASK_BOOL ? 1 : p.mask_kind == MASK_F32 ? 4 : (int)sizeof(S));
        padding = o.padding + (p.padding_kind == PADDING_ROWS ? b * p.padding_batch + row * p.padding_row - p.padding_past : b);
    }
    __device__ __forceinline__ bool exists() const { return row < q_len; }

    __device__ __forceinline__ i64 bytes(i64 elements) const {
        if (!kIsCoded) return elements * (int)sizeof(S);
        return p.cache_code == CACHE_I4 ? elements / 2 : elements;
    }
    __device__ __forceinline__ const u8 *head_of(const void *cache, i64 batch_stride, i64 head_stride) const {
        return (const u8 *)cache + bytes(kv_head * head_stride + (p.page_rows ? 0 : (i64)b * batch_stride));
    }
    /// Every thread takes part.
    __device__ __forceinline__ void load_query(const float *scales) {
        for (u32 c = threadIdx.x; c < p.head_qk; c += 256) {
            query[c] = widen<float>(q[c]) * p.scale;
            if (kIsCoded) query[c] *= scales[scale_place(p.scale_kind, kv_head, p.head_qk, c)];
        }
        __syncthreads();
    }
    /// The row of a key in a cache; NULL where its page is not mapped.
    __device__ __forceinline__ const u8 *line(const u8 *cache, i64 key, i64 batch_stride, i64 row_stride) const {
        i64 at = key * row_stride;
        if (p.page_rows) {
            u32 number = __umulhi((u32)key, p.page_magic) >> p.page_shift;
            i64 page = pages[number];
            if (page < 0) return nullptr;
            at = page * batch_stride + (key - number * p.page_rows) * row_stride;
        }
        return cache + bytes(at);
    }
    __device__ __forceinline__ float number(const u8 *line, u32 column) const {
        return kIsCoded ? cached_number(line, column, p.cache_code) : widen<float>(((const S *)line)[column]);
    }
    __device__ __forceinline__ float product(i64 key) const {
        const u8 *own = line(k, key, p.k_batch, p.k_row);
        float sum = 0.0f;
        _Pragma("unroll 1") for (u32 c = 0; own && c < p.head_qk; c++) sum += query[c] * number(own, c);
        return sum;
    }
    __device__ __forceinline__ float capped(float score) const {
        return p.soft_cap != 0.0f ? p.soft_cap * tanhf(score * p.inverse_cap) : score;
    }
    __device__ __forceinline__ bool is_padding(i64 key) const {
        if (p.padding_kind == PADDING_ROWS) return key >= (i64)p.padding_past && padding[key] == 0;
        return key >= padding[0] || (p.padding_kind == PADDING_RANGES && key < padding[p.batch]);
    }
    /// A capped score under the masks; keys past the mask's columns are hidden.
    __device__ __forceinline__ float masked(float score, i64 key) const {
        const float none = -__uint_as_float(0x7f800000u);
        if (p.mask_kind && key >= (i64)p.mask_columns) return none;
        if (p.mask_kind == MASK_ELEMENT) score += widen<float>(((const S *)mask)[key]);
        if (p.mask_kind == MASK_BOOL) score = mask[key] ? score : none;
        if (p.mask_kind == MASK_F32) score += ((const float *)mask)[key];
        if (p.padding_kind && is_padding(key)) score += p.padding_filter;
        return score;
    }
    /// The score of a key that may lie outside [begin, end).
    __device__ __forceinline__ float score(i64 key) const {
        if (key < begin || key >= end) return -__uint_as_float(0x7f800000u);
        return masked(capped(product(key)), key);
    }
    /// Adds w times a value's columns that belong to this thread.
    __device__ __forceinline__ void gather(float (&result)[ATTENTION_COLUMNS], i64 key, float w) const {
        const u8 *own = line(v, key, p.v_batch, p.v_row);
        for (int i = 0; own && i < ATTENTION_COLUMNS; i++) {
            u32 column = threadIdx.x + 256 * i;
            if (column < p.head_v) result[i] += w * number(own, column);
        }
    }
};

/// Maximum and sum of the weights of a row so far, relative to that maximum.
struct AttentionSums {
    float top, sum;

    template <class S> __device__ __forceinline__ AttentionSums(const AttentionOperands<S> &o, const AttentionParams &p) {
        top = -__uint_as_float(0x7f800000u), sum = 0.0f;
        if (p.has_sinks) top = o.sinks[blockIdx.y], sum = 1.0f;
    }
    /// Takes in a score a thread, gives its weight, and how much of earlier weights is kept.
    __device__ __forceinline__ float add(float score, float *space, float &kept) {
        const float none = -__uint_as_float(0x7f800000u);
        float highest = over_row<256>(score, space, Greater());
        float next = highest > top ? highest : top;
        float weight = score == none ? 0.0f : expf(score - next);
        float added = over_row<256>(weight, space, Added());
        kept = next == none ? 1.0f : top == none ? 0.0f : expf(top - next);
        sum = sum * kept + added;
        top = next;
        return weight;
    }
};

/// Where parameters are read: more of them are live in the loops than wide waves have scalar registers for, so that those
/// read a copy in shared memory.
__device__ __forceinline__ const AttentionParams &near_params(AttentionParams &space, const AttentionParams &given) {
    if (WAVE == 32) return given;
    for (u32 i = threadIdx.x; i < sizeof(AttentionParams) / 4; i += 256) ((u32 *)&space)[i] = ((const u32 *)&given)[i];
    __syncthreads();
    return space;
}

template <class S, bool kIsCoded>
__device__ __forceinline__ void attention_row(S *out, const AttentionOperands<S> &o, const AttentionParams &given) {
    __shared__ AttentionParams own_params;
    const AttentionParams &p = near_params(own_params, given);
    __shared__ float query[1024];
    __shared__ float weights[256];
    __shared__ float space[256 / WAVE];
    AttentionRow<S, kIsCoded> row(o, p, query);
    if (!row.exists()) return;
    S *line = out + (o.q_offsets ? (i64)0 : (i64)row.b * p.out_batch) + ((i64)row.q_start + row.row) * p.out_row + row.head * p.out_head;
    row.load_query(o.k_scales);
    AttentionSums sums(o, p);
    float result[ATTENTION_COLUMNS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (i64 start = row.begin; start < row.end; start += 256) {
        i64 key = start + threadIdx.x;
        float kept;
        weights[threadIdx.x] = sums.add(row.score(key), space, kept);
        __syncthreads();
        i64 count = row.end - start < 256 ? row.end - start : 256;
        for (int i = 0; i < ATTENTION_COLUMNS; i++) result[i] *= kept;
        _Pragma("unroll 1") for (i64 n = 0; n < count; n++)
            if (weights[n] != 0.0f) row.gather(result, start + n, weights[n]);
    }
    float inverse = sums.sum > 0.0f ? 1.0f / sums.sum : 0.0f;
    for (int i = 0; i < ATTENTION_COLUMNS; i++) {
        u32 column = threadIdx.x + 256 * i;
        if (column >= p.head_v) continue;
        float value = result[i] * inverse;
        if (kIsCoded) value *= o.v_scales[scale_place(p.scale_kind, row.kv_head, p.head_v, column)];
        line[column] = Narrow<S>::from(value);
    }
}

/// The scores themselves, of all keys of a row, at one of the stages on the way to weights.
template <class S, bool kIsCoded>
__device__ __forceinline__ void attention_scores(S *out, const AttentionOperands<S> &o, const AttentionParams &given) {
    __shared__ AttentionParams own_params;
    const AttentionParams &p = near_params(own_params, given);
    __shared__ float query[1024];
    __shared__ float space[256 / WAVE];
    const float none = -__uint_as_float(0x7f800000u);
    AttentionRow<S, kIsCoded> row(o, p, query);
    if (!row.exists()) return;
    row.load_query(o.k_scales);
    AttentionSums sums(o, p);
    if (p.scores_mode == SCORES_WEIGHTS) {
        _Pragma("unroll 1") for (i64 start = row.begin; start < row.end; start += 256) {
            float kept;
            sums.add(row.score(start + threadIdx.x), space, kept);
        }
    }
    float base = p.scores_mode == SCORES_WEIGHTS && sums.sum > 0.0f ? sums.top + logf(sums.sum) : 0.0f;
    S *line = out + row.b * p.scores_batch + row.head * p.scores_head + row.row * p.scores_row;
    for (i64 key = threadIdx.x; key < (i64)p.scores_keys; key += 256) {
        float score;
        if (p.scores_mode <= SCORES_CAPPED) {
            score = key < (i64)p.kv_len ? row.product(key) : 0.0f;
            if (p.scores_mode == SCORES_CAPPED) score = row.capped(score);
        } else {
            score = row.score(key);
            if (p.scores_mode == SCORES_WEIGHTS) score = score == none ? 0.0f : expf(score - base);
            else if (score == none) score = p.hidden_score;
        }
        line[key] = Narrow<S>::from(score);
    }
}

/// What masks and paddings add to the scores, for kernels that take one mask alone: by the strides of scores.
template <class S, class O>
__device__ __forceinline__ void attention_masks(O *out, const AttentionOperands<S> &o, const AttentionParams &given) {
    __shared__ AttentionParams own_params;
    const AttentionParams &p = near_params(own_params, given);
    AttentionRow<S, false> row(o, p, nullptr);
    O *line = out + row.b * p.scores_batch + row.head * p.scores_head + row.row * p.scores_row;
    for (i64 key = threadIdx.x; key < (i64)p.kv_len; key += 256) line[key] = Narrow<O>::from(row.masked(0.0f, key));
}

#define ATTENTION_KERNEL(NAME, BODY, SUFFIX, S, CODED)                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        attention_plain_##NAME##SUFFIX(void *out, const void *q, const void *k, const void *v, const void *lengths,  \
                                       const void *q_offsets, const void *table, const void *sinks,                  \
                                       const void *mask, const void *padding, const void *k_scales,                  \
                                       const void *v_scales, const __grid_constant__ AttentionParams p) {            \
        begin_kernel();                                                                                              \
        AttentionOperands<S> o = {(const S *)q,           k,    v, lengths, (const int *)q_offsets,                  \
                                  (const int *)table,     mask, (const int *)padding, (const float *)sinks,          \
                                  (const float *)k_scales, (const float *)v_scales};                                 \
        BODY<S, CODED>((S *)out, o, p);                                                                              \
    }

#define MASKS_KERNEL(NAME, SUFFIX, S, O)                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        attention_plain_masks_##NAME##SUFFIX(void *out, const void *mask, const void *padding,                       \
                                             const __grid_constant__ AttentionParams p) {                            \
        begin_kernel();                                                                                              \
        AttentionOperands<S> o = {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, mask, (const int *)padding,  \
                                  nullptr, nullptr, nullptr};                                                        \
        attention_masks<S, O>((O *)out, o, p);                                                                       \
    }

#define ATTENTION_KERNELS(SUFFIX, S)                                      \
    ATTENTION_KERNEL(, attention_row, SUFFIX, S, false)                   \
    ATTENTION_KERNEL(coded_, attention_row, SUFFIX, S, true)              \
    ATTENTION_KERNEL(scores_, attention_scores, SUFFIX, S, false)         \
    ATTENTION_KERNEL(scores_coded_, attention_scores, SUFFIX, S, true)

ATTENTION_KERNELS(f32, float)
ATTENTION_KERNELS(f16, f16)
ATTENTION_KERNELS(bf16, bf16)
MASKS_KERNEL(, f32, float, float)
MASKS_KERNEL(, f16, f16, f16)
MASKS_KERNEL(, bf16, bf16, bf16)
MASKS_KERNEL(wide_, f16, f16, float)
MASKS_KERNEL(wide_, bf16, bf16, float)
