//! A mask in memory: where it is for a query row, and its numbers one by one.
//!
//! Definitions from the unit: ELEMENT.

/// What a launch reads of a mask; `memory` is NULL where there is none.
struct Masking {
    const MaskShape& shape;
    const u8* memory;

    /// Where the first key of a query row of a head is, in elements.
    DEVICE i64 place(i32 batch, i32 head, i32 row) const {
        return batch * shape.batch + head * shape.head + row * shape.row;
    }
    DEVICE const u8* line(i32 batch, i32 head, i32 row) const {
        return memory + place(batch, head, row) * (shape.kind == kMaskElement ? 2 : shape.kind == kMaskBool ? 1 : 4);
    }
    /// What the element at a place adds to a score; booleans add nothing or minus infinity.
    DEVICE float number(i64 at) const {
        if (shape.kind == kMaskElement) return low2<ELEMENT>(reinterpret_cast<const u16*>(memory)[at]);
        if (shape.kind == kMaskBool) return memory[at] ? 0.0f : kMinusInfinity;
        return reinterpret_cast<const float*>(memory)[at];
    }
};
