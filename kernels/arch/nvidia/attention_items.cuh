//! Work items of attention with many query rows, and places in rings of stages.
//!
//! Definitions from the unit: BM (rows of an item), BN (keys of a block), STAGES, and MASK as in the kernel.

/// A work item: BM query rows of a head, and the blocks of BN keys [begin, end) that some of them see.
struct Item {
    i32 batch, head, row0, begin, end;
    Sequence sequence;

    DEVICE Item(const Arguments& a, i32 batch_, i32 head_, i32 row0_)
        : batch(batch_), head(head_), row0(row0_), sequence(a.shape, batch_, a.lengths, a.q_offsets) {
        const i32 last_row = min(row0 + BM, sequence.q_len) - 1;
        end = MASK == 0 ? sequence.kv_len : sequence.key_end(a.shape, last_row);
        end = row0 < sequence.q_len ? ceil_div(max(end, 0), BN) : 0;
        begin = MASK >= 2 ? sequence.key_begin(a.shape, row0) / BN : 0;
    }
    static DEVICE Item of(const Arguments& a, i32 index) {
        const i32 heads = a.shape.batch * a.shape.heads;
        const i32 section = index / (a.shape.section * a.shape.row_tiles);
        const i32 within = index - section * a.shape.section * a.shape.row_tiles;
        const i32 section_heads = min(a.shape.section, heads - section * a.shape.section);
        const i32 tile = within / section_heads;
        const i32 head = section * a.shape.section + within - tile * section_heads;
        return Item(a, head / a.shape.heads, head % a.shape.heads, (a.shape.row_tiles - 1 - tile) * BM);
    }
};

/// A place in a ring of shared-memory stages.
struct Cursor {
    u32 stage = 0, parity = 0;
    DEVICE void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};
