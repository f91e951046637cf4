//! A mask in memory: numbers that are added to scores, or booleans that say where a row may look.
//!
//! Definitions from the unit: ELEMENT (BF16, F16 or F32).

template <class T> DEVICE float mask_element(u32 bits);
template <> DEVICE float mask_element<BF16>(u32 bits) { return __uint_as_float(bits << 16); }
template <> DEVICE float mask_element<F16>(u32 bits) { return (float)__builtin_bit_cast(half, (u16)bits); }
template <> DEVICE float mask_element<F32>(u32 bits) { return __uint_as_float(bits); }

/// Storage of an element; the planner calls elements of 32 bits kMaskF32.
typedef u16 MaskBits;

/// What a launch reads of a mask; `memory` is NULL where there is none. Booleans add nothing or minus infinity.
struct Masking {
    const MaskShape& shape;
    const u8* memory;

    /// The first key of a query row of a head.
    DEVICE const u8* line(i32 batch, i32 head, i32 row) const {
        const i64 at = batch * shape.batch + head * shape.head + row * shape.row;
        return memory + at * (shape.kind == kMaskElement ? (i32)kElementBytes : shape.kind == kMaskBool ? 1 : 4);
    }
    /// What is added for four neighbouring keys; for those from `end` on any number.
    static DEVICE f32x4 each(i32 kind, const u8* line, i32 key, i32 end) {
        f32x4 four;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const i32 at = min(key + (i32)i, end - 1);
            if (kind == kMaskElement) four[i] = mask_element<ELEMENT>(((const GLOBAL MaskBits*)line)[at]);
            else if (kind == kMaskBool) four[i] = ((const GLOBAL u8*)line)[at] ? 0.0f : kMinusInfinity;
            else four[i] = ((const GLOBAL float*)line)[at];
        }
        return four;
    }
    /// The same of an aligned row where all four exist, the first a multiple of 4.
    static DEVICE f32x4 whole(i32 kind, const u8* line, i32 key) {
        if (kind == kMaskF32) return *(const GLOBAL f32x4*)(line + (i64)key * 4);
        if (kind == kMaskElement) {
            const u32x2 pairs = *(const GLOBAL u32x2*)(line + (i64)key * 2);
            return f32x4{mask_element<ELEMENT>(pairs.x & 0xffff), mask_element<ELEMENT>(pairs.x >> 16),
                         mask_element<ELEMENT>(pairs.y & 0xffff), mask_element<ELEMENT>(pairs.y >> 16)};
        }
        const u32 bytes = *(const GLOBAL u32*)(line + key);
        f32x4 four;
#pragma unroll
        for (u32 i = 0; i < 4; i++) four[i] = bytes >> 8 * i & 0xff ? 0.0f : kMinusInfinity;
        return four;
    }
};
