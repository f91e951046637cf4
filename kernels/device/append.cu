//! New rows of queries, keys and values on their way into attention: bias, norm, rotation, and a place in a cache,
//! in pages or not, in the element type or in codes.
//!
//! A wave takes a head of a token: it gathers the head's columns in shared memory, turns pairs there, and writes them
//! (or their codes) where they belong.

#define APPEND_COLUMNS 1024 // of a head at most
#define APPEND_WAVES (128 / WAVE)

#define TO_ROWS 0   // the same row of the target
#define TO_CACHE 1  // behind the past of the sequence
#define TO_PAGES 2  // the same, in a pool of pages
#define TO_NOWHERE 3

struct AppendPart {
    i64 in_batch, in_row, in_head;    // strides in elements
    i64 out_batch, out_row, out_head; // in elements or codes; pages: out_batch from page to page
    i64 bias_offset;                  // elements before the bias of the first head; negative: none
    u32 heads, target, is_turned;
    u32 has_norm;
    u32 code, scale_kind;
    float epsilon;
    u32 reserved;
};

struct AppendParams {
    AppendPart parts[3];
    u32 batch, rows, columns; // rows: of a sequence, or of all where offsets cut them
    u32 half, rotary_offset, is_interleaved, angles, angle_dtype;
    u32 position_mode;        // 0: behind the past; 1: a position a token; 2: positions[0] + row
    u32 length_mode;          // 0: no past; 1: lengths[b] + bias rows with the new ones; 2: lengths[b] before them; 3: bias before them
    int length_bias;
    u32 room;                 // rows of a sequence in a cache without pages
    u32 page_rows, table_columns, pages;
    u32 has_offsets, has_slots;
};

struct AppendOperands {
    void *q_out, *k_out, *v_out;
    const void *q, *k, *v, *bias, *q_norm, *k_norm, *cosines, *sines;
    const i64 *positions;
    const int *lengths, *offsets, *table, *slots;
    const float *k_scales, *v_scales;
};

/// The one of three addresses that belongs to a part.
template <class P> __device__ __forceinline__ P of_part(u32 which, P q, P k, P v) {
    return which == 0 ? q : which == 1 ? k : v;
}

__device__ __forceinline__ float append_angle(const void *table, i64 at, u32 dtype) {
    if (dtype == DTYPE_F32) return ((const float *)table)[at];
    if (dtype == DTYPE_F16) return widen<float>(((const f16 *)table)[at]);
    return widen<float>(((const bf16 *)table)[at]);
}

/// Where a token is: its sequence, its row there, and the rows before it.
struct AppendToken {
    u32 b, row, past;
    bool exists;

    __device__ __forceinline__ AppendToken(const AppendOperands &o, const AppendParams &p, u32 token) {
        if (p.has_offsets) {
            u32 low = 0, high = p.batch;
            while (high - low > 1) {
                u32 middle = (low + high) / 2;
                if ((u32)o.offsets[middle] <= token) low = middle;
                else high = middle;
            }
            b = low, row = token - (u32)o.offsets[low];
            exists = token < p.rows && token < (u32)o.offsets[p.batch];
        } else {
            b = token / p.rows, row = token % p.rows;
            exists = b < p.batch;
        }
        past = 0;
        if (!exists) return;
        if (p.length_mode == 1) {
            int length = o.lengths[b] + p.length_bias;
            int fresh = length < (int)p.rows ? length : (int)p.rows;
            past = (u32)(length - fresh);
            exists = (int)row < fresh;
        }
        if (p.length_mode == 3) past = (u32)p.length_bias;
        if (p.length_mode == 2) past = o.lengths[b] < 0 ? 0 : (u32)o.lengths[b];
    }
    /// Elements before the token's row in the target; negative where it has none.
    __device__ __forceinline__ i64 place(const AppendOperands &o, const AppendParams &p, const AppendPart &part, u32 token) const {
        u32 at = past + row;
        if (part.target == TO_ROWS) return p.has_offsets ? (i64)token * part.out_row : (i64)b * part.out_batch + (i64)row * part.out_row;
        if (part.target == TO_CACHE) return at < p.room ? (i64)b * part.out_batch + (i64)at * part.out_row : -1;
        i64 slot;
        if (p.has_slots) {
            slot = o.slots[token];
        } else {
            u32 column = at / p.page_rows;
            if (column >= p.table_columns) return -1;
            i64 page = o.table[(i64)b * p.table_columns + column];
            slot = page < 0 ? -1 : page * p.page_rows + at % p.page_rows;
        }
        if (slot < 0 || slot >= (i64)p.pages * p.page_rows) return -1;
        return slot / p.page_rows * part.out_batch + slot % p.page_rows * part.out_row;
    }
};

template <class S> __device__ __forceinline__ void append(const AppendOperands &o, const AppendParams &p) {
    __shared__ float lines[APPEND_WAVES][APPEND_COLUMNS];
    __shared__ float space[APPEND_WAVES];
    u32 heads = p.parts[0].heads + p.parts[1].heads + p.parts[2].heads;
    u32 lane = threadIdx.x % WAVE;
    float *line = lines[threadIdx.x / WAVE];
    u32 index = blockIdx.x * APPEND_WAVES + threadIdx.x / WAVE;
    u32 token = index / heads, head = index % heads, which = 0;
    if (head >= p.parts[0].heads) head -= p.parts[0].heads, which = 1;
    if (which == 1 && head >= p.parts[1].heads) head -= p.parts[1].heads, which = 2;
    const AppendPart &part = p.parts[which];
    AppendToken at(o, p, token);
    // A query row of a padded sequence is still written, so that nothing in memory is left to chance.
    bool is_padding = !at.exists && part.target == TO_ROWS && !p.has_offsets && token < p.batch * p.rows;
    bool is_done = !at.exists && !is_padding;
    i64 place = is_done ? -1 : at.place(o, p, part, token);
    is_done = is_done || place < 0;
    float squares = 0.0f;
    if (!is_done) {
        const S *from = (const S *)of_part(which, o.q, o.k, o.v) + head * part.in_head +
                        (p.has_offsets ? (i64)token * part.in_row : (i64)at.b * part.in_batch + (i64)at.row * part.in_row);
        const S *bias = (const S *)o.bias + part.bias_offset + (i64)head * p.columns;
        for (u32 c = lane; c < p.columns; c += WAVE) {
            float x = widen<float>(from[c]);
            if (part.bias_offset >= 0) x += widen<float>(bias[c]);
            line[c] = x;
            squares += x * x;
        }
    }
    float inverse = 1.0f;
    if (part.has_norm) {
        squares = over_row<WAVE>(squares, space, Added());
        inverse = 1.0f / sqrtf(squares / (float)p.columns + part.epsilon);
    }
    __syncthreads();
    if (!is_done && part.has_norm) {
        const S *norm = (const S *)(which == 1 ? o.k_norm : o.q_norm);
        for (u32 c = lane; c < p.columns; c += WAVE) line[c] *= inverse * widen<float>(norm[c]);
    }
    __syncthreads();
    if (!is_done && part.is_turned) {
        i64 position = (i64)at.past + at.row;
        if (p.position_mode == 1) position = o.positions[token];
        if (p.position_mode == 2) position = o.positions[0] + at.row;
        position = position < 0 ? 0 : position >= (i64)p.angles ? (i64)p.angles - 1 : position;
        for (u32 s = lane; s < p.half; s += WAVE) {
            u32 first = p.rotary_offset + (p.is_interleaved ? 2 * s : s), second = p.is_interleaved ? first + 1 : first + p.half;
            float c = append_angle(o.cosines, position * p.half + s, p.angle_dtype);
            float d = append_angle(o.sines, position * p.half + s, p.angle_dtype);
            float x = line[first], y = line[second];
            line[first] = x * c - y * d, line[second] = x * d + y * c;
        }
    }
    __syncthreads();
    if (is_done) return;
    place += head * part.out_head;
    void *to = of_part(which, o.q_out, o.k_out, o.v_out);
    if (part.code == CACHE_ELEMENT) {
        S *own = (S *)to + place;
        for (u32 c = lane; c < p.columns; c += WAVE) own[c] = Narrow<S>::from(line[c]);
        return;
    }
    const float *scales = which == 2 ? o.v_scales : o.k_scales;
    u8 *codes = (u8 *)to + (part.code == CACHE_I4 ? place / 2 : place);
    for (u32 c = lane; c < (part.code == CACHE_I4 ? (p.columns + 1) / 2 : p.columns); c += WAVE) {
        if (part.code == CACHE_I4) {
            u32 both = 0;
            for (u32 i = 0; i < 2 && 2 * c + i < p.columns; i++) {
                float scale = scales[scale_place(part.scale_kind, head, p.columns, 2 * c + i)];
                both |= (u32)(whole_code(line[2 * c + i], scale, -8.0f, 7.0f) + 8) << 4 * i;
            }
            codes[c] = (u8)both;
            continue;
        }
        float scale = scales[scale_place(part.scale_kind, head, p.columns, c)];
        codes[c] = part.code == CACHE_E4M3 ? (u8)e4m3fn::encode(line[c] / scale, 0, CodeRules{1, 0}) : (u8)whole_code(line[c], scale, -128.0f, 127.0f);
    }
}

#define APPEND_KERNEL(SUFFIX, S)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        attention_append_##SUFFIX(void *q_out, void *k_out, void *v_out, const void *q, const void *k, const void *v,  \
                                  const void *bias, const void *q_norm, const void *k_norm, const void *cosines,       \
                                  const void *sines, const void *positions, const void *lengths, const void *offsets,  \
                                  const void *table, const void *slots, const void *k_scales, const void *v_scales,    \
                                  const __grid_constant__ AppendParams p) {                                            \
        begin_kernel();                                                                                                \
        AppendOperands o = {q_out,                                                                                     \
                            k_out,                                                                                     \
                            v_out,                                                                                     \
                            q,                                                                                         \
                            k,                                                                                         \
                            v,                                                                                         \
                            bias,                                                                                      \
                            q_norm,                                                                                    \
                            k_norm,                                                                                    \
                            cosines,                                                                                   \
                            sines,                                                                                     \
                            (const i64 *)positions,                                                                    \
                            (const int *)lengths,                                                                      \
                            (const int *)offsets,                                                                      \
                            (const int *)table,                                                                        \
                            (const int *)slots,                                                                        \
                            (const float *)k_scales,                                                                   \
                            (const float *)v_scales};                                                                  \
        append<S>(o, p);                                                                                               \
    }

APPEND_KERNEL(f32, float)
APPEND_KERNEL(f16, f16)
APPEND_KERNEL(bf16, bf16)
