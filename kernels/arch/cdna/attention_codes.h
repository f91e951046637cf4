//! Caches of codes: what the codes of a row become on their way to the matrix units, and their scales.
//!
//! Codes become elements in registers and lie in LDS as those do. A number is an element times the code's unit and a
//! scale, which are applied to scores and results; scales of single columns of keys to the queries.
//!
//! Definitions from the unit: ELEMENT, CODES, HEAD_QK, BN (rows of a tile), MASK.

static_assert(!CODES || (kElementBytes == 2 && !MASK), "codes become elements of 16 bits; masks are of those only");

constexpr float kCodeUnit = CODES == kCodesE4M3 ? kE4M3Unit : 1.0f;

/// 16 codes as two pieces of elements, in order.
template <class T> DEVICE void widen_codes(u32x4 codes, u32x4 (&pieces)[2]) {
    if constexpr (CODES == kCodesE4M3) {
        widen_e4m3<T>(codes, pieces);
    } else if constexpr (CODES == kCodesWhole) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            const u32 pair = codes[i / 2] >> i % 2 * 16;
            pieces[i / 4][i % 4] = pack_exact<T>(f32x2{(float)(i8)pair, (float)(i8)(pair >> 8)});
        }
    }
}

/// One scale for all codes, one for each head, or one for each column of each head.
constexpr u32 kScaleOne = 0, kScaleHead = 1, kScaleColumn = 2;

/// What the codes of a head are multiplied by.
struct CodeScales {
    const float *k, *v;
    u32 kind;

    DEVICE bool has_columns() const { return CODES && kind == kScaleColumn; }
    DEVICE const float* key_columns(i32 head, i32 columns) const { return k + head * columns; }
    DEVICE const float* value_columns(i32 head, i32 columns) const { return v + head * columns; }
    /// Of all columns of a head: where they have scales of their own the largest of them, which queries are divided by.
    DEVICE float of_keys(i32 head, i32 columns) const {
        if (!CODES) return 1.0f;
        if (has_columns()) return largest(key_columns(head, columns), columns) * kCodeUnit;
        return k[kind == kScaleHead ? head : 0] * kCodeUnit;
    }
    DEVICE float of_values(i32 head) const {
        if (!CODES) return 1.0f;
        return has_columns() ? kCodeUnit : v[kind == kScaleHead ? head : 0] * kCodeUnit;
    }
    /// Lanes look at a quarter of the columns each; not 0.
    static DEVICE float largest(const float* scales, u32 columns) {
        float top = 0.0f;
#pragma unroll
        for (u32 i = 0; i < HEAD_QK / 4; i++) {
            const u32 column = lane_id() / 16 * (HEAD_QK / 4) + i;
            const float scale = ((const GLOBAL float*)scales)[column < columns ? column : 0];
            top = max3(top, scale, -scale);
        }
        top = maximum(top, other_quarter(top));
        top = maximum(top, other_half(top));
        return top == 0.0f ? 1.0f : top;
    }
};

/// 8 elements of a query times the scales of their columns and `factor`.
template <class T> DEVICE u32x4 scaled_query(u32x4 piece, const float* scales, float factor) {
    if constexpr (CODES) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float low = ((const GLOBAL float*)scales)[2 * i], high = ((const GLOBAL float*)scales)[2 * i + 1];
            piece[i] = pack2<T>(widen16<T>((u16)piece[i]) * (low * factor), widen16<T>((u16)(piece[i] >> 16)) * (high * factor));
        }
    }
    return piece;
}

/// Copies tiles of kPanels panels of elements from rows of codes, through registers: a run is 16 rows of a panel, and lane i
/// has the 16 codes of row i / 4 from column 16 (i % 4) on, two pieces of the panel.
template <u32 kPanels, u32 (*kSwizzle)(u32), u32 kSharers> struct CodedPanelCopy {
    static constexpr u32 kRowRuns = BN / 16, kRuns = kPanels * kRowRuns, kCount = (kRuns + kSharers - 1) / kSharers;
    static constexpr u32 kPlaces = kSharers == 1 ? kRowRuns : 1;
    static_assert(kSharers == 1 || kSharers % kRowRuns == 0, "runs of a wave share rows");
    const Rows rows;
    u32x4 held[kCount];

    DEVICE CodedPanelCopy(const Rows& rows_) : rows(rows_) {}

    static DEVICE u32 run(u32 number) { return wave_id() % kSharers + number * kSharers; }
    static DEVICE bool has(u32 number) { return kRuns % kSharers == 0 || run(number) < kRuns; }
    /// Rows whose second piece is written first, so that two neighbouring rows, which 8 lanes write, meet in no bank.
    static constexpr u32 is_turned(u32 row) { return (row ^ kSwizzle(row)) & 1; }
    static constexpr bool turns() {
        for (u32 row = 0; row < 16; row++)
            if (is_turned(row)) return true;
        return false;
    }

    /// Starts to load the wave's share of the tile whose first row is `row0`.
    DEVICE void start(Lds, const Pages& pages, i32 row0) {
        Place places[kPlaces];
#pragma unroll
        for (u32 p = 0; p < kPlaces; p++) places[p] = pages.find(row0 + (i32)(run(p) % kRowRuns * 16));
#pragma unroll
        for (u32 n = 0; n < kCount; n++) {
            if (!has(n)) continue;
            const Buffer buffer = buffer_of(rows.descriptor(places[n % kPlaces], 16));
            const u32 lane = fresh(lane_id()), column = run(n) / kRowRuns * 64 + lane % 4 * 16;
            held[n] = buffer_load16(buffer, column < rows.column_bytes ? lane / 4 * rows.row_bytes + column : kNowhere);
        }
    }
    DEVICE void finish(Lds tile) {
        const u32 row = lane_id() / 4, turn = turns() ? is_turned(row) : 0;
        const u32 at = row * 128 + ((lane_id() % 4 * 2 + turn) ^ kSwizzle(row)) * 16;
#pragma unroll
        for (u32 n = 0; n < kCount; n++) {
            if (!has(n)) continue;
            const u32x4 other = __builtin_shufflevector(held[n], held[n], 2, 3, 0, 1);
            u32x4 pieces[2];
            widen_codes<ELEMENT>(turns() && turn ? other : held[n], pieces);
            const Lds to = tile + run(n) / kRowRuns * (BN * 128) + run(n) % kRowRuns * (16 * 128);
            *(LOCAL u32x4*)(to + at) = pieces[0];
            *(LOCAL u32x4*)(to + (at ^ 16)) = pieces[1];
        }
    }
};

template <bool, class Yes, class No> struct Choose { typedef Yes Type; };
template <class Yes, class No> struct Choose<false, Yes, No> { typedef No Type; };
