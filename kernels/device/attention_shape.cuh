//! What the attention kernels know about a problem, and where the keys of a query row begin and end.
//!
//! Definitions from the unit: KEY_LIMIT (1: a mask in memory may have fewer columns than there are keys).

/// Extents, masks and strides of a launch; strides count elements. The planner writes it in this order.
struct AttentionShape {
    i32 batch, heads, kv_heads, group;      // group: query heads that share a key/value head
    i32 q_len, kv_len;                      // the longest of the batch where lengths differ
    i32 is_causal, is_bottom_right, offset; // row i sees keys up to i + offset; bottom right: offset = kv - q length, 2: not below 0
    i32 window_left;                        // and not before i + offset - window_left; negative: no bound
    i32 length_step, length_bias, length_adds_q; // lengths[b * step] + bias (+ q length) keys
    i32 page_rows, piece_rows, table_stride; // rows of a page and of one copy from it; 0 pages: contiguous
    i32 head_qk, head_v;                    // columns of a key and of a value row, multiples of 8
    i32 tiles, row_tiles, section;          // forward: work items, items of a head, heads of one L2 section
    i32 key_limit;                          // keys from here on are hidden
    float scale_log2;                       // of scores, times log2 e; with a soft cap: the cap times log2 e
    float cap_scale;                        // scores are multiplied by it before tanh; 0: no soft cap
    i64 q_batch, q_row, q_head, out_batch, out_row, out_head;
};

/// What a mask over [batch, heads, rows, keys] holds and where. The planner writes it in this order.
struct MaskShape {
    i64 batch, head, row; // strides in elements, 0 where all share one; keys are neighbours
    i32 kind;             // kMaskNone and following
    i32 is_aligned;       // runs of 8 keys that begin at multiples of 8 do so at multiples of their bytes
};
constexpr i32 kMaskNone = 0, kMaskElement = 1, kMaskBool = 2, kMaskF32 = 3; // added, not zero where a row may look, added

/// The operands that say which keys belong to which rows; any of the pointers may be NULL.
struct Arguments {
    const AttentionShape& shape;
    const i32* lengths;
    const i32* q_offsets;
    const i32* table;
};

/// One sequence of the batch; kv_len counts the keys that are not hidden for all rows.
struct Sequence {
    i32 q_start, q_len, kv_len, offset;

    DEVICE Sequence(const AttentionShape& shape, i32 batch, const i32* lengths, const i32* q_offsets) {
        q_start = q_offsets ? q_offsets[batch] : 0;
        q_len = q_offsets ? q_offsets[batch + 1] - q_start : shape.q_len;
        kv_len = shape.kv_len;
        if (lengths)
            kv_len = lengths[batch * shape.length_step] + shape.length_bias + (shape.length_adds_q ? q_len : 0);
        kv_len = max(0, min(kv_len, shape.kv_len));
        offset = shape.is_bottom_right ? kv_len - q_len : shape.offset;
        if (shape.is_bottom_right == 2) offset = max(offset, 0);
        if (KEY_LIMIT) kv_len = min(kv_len, shape.key_limit);
    }
    /// One past the last key that row `row` sees.
    DEVICE i32 key_end(const AttentionShape& shape, i32 row) const {
        return shape.is_causal ? min(kv_len, row + offset + 1) : kv_len;
    }
    /// The first key that row `row` sees.
    DEVICE i32 key_begin(const AttentionShape& shape, i32 row) const {
        return shape.window_left < 0 ? 0 : max(0, row + offset - shape.window_left);
    }
};

DEVICE i32 ceil_div(i32 a, i32 b) { return (a + b - 1) / b; }

constexpr float kLog2E = 1.4426950408889634f;
/// A running maximum is kept while scores exceed it by less than this power of two: weights stay far inside f16.
constexpr float kLazyGrowth = 8.0f;
#define kMinusInfinity __int_as_float(0xff800000)

/// cap_scale * score through tanh, exact to f32 rounding of its parts; the cap itself is folded into the scale.
DEVICE float soft_cap(float score, float cap_scale) {
    const float e = exp2_approx(score * cap_scale * (2.0f * kLog2E));
    return 1.0f - 2.0f * rcp_approx(e + 1.0f);
}
