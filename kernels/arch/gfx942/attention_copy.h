//! How CDNA3 brings keys and values into LDS and reads values: through registers; 16-bit values are transposed on the
//! way, so that a column's keys lie beside each other.

/// Copies tiles of kPanels panels through registers.
template <u32 kPanels, u32 (*kSwizzle)(u32), u32 kSharers> struct PanelCopy {
    typedef PanelShare<kPanels, kSwizzle, kSharers> Share;
    const Rows rows;
    const Share share;
    u32x4 held[Share::kCount];

    DEVICE PanelCopy(const Rows& rows_) : rows(rows_), share(rows_) {}

    /// Starts to load the wave's share of the tile whose first row is `row0`.
    DEVICE void start(Lds, const Pages& pages, i32 row0) {
        Place places[Share::kPlaces];
        share.find(places, pages, row0);
#pragma unroll
        for (u32 n = 0; n < Share::kCount; n++) {
            if (!Share::has(n)) continue;
            const Buffer buffer = buffer_of(rows.descriptor(Share::place(places, n), 8));
            held[n] = buffer_load16(buffer, share.offset(n));
        }
    }
    DEVICE void finish(Lds tile) {
#pragma unroll
        for (u32 n = 0; n < Share::kCount; n++)
            if (Share::has(n)) *(LOCAL u32x4*)(tile + Share::run(n) * 1024 + lane_id() * 16) = held[n];
    }
};

/// Where four keys of a column lie in a transposed tile. A column is BN keys; of every 16 the groups of four lie in the
/// order 0, 2, 1, 3, so that a lane reads its two groups of a 32-row product as one piece:
///
///     keys of 16      0-3   8-11  4-7  12-15
///     piece, half     0, 0  0, 1  1, 0  1, 1
///
/// Pieces of 128-byte rows are permuted so that 8 neighbouring columns, and 8 columns with a distance of four, do not
/// meet in a bank.
struct Columns {
    static constexpr u32 kColumnPieces = BN / 8; // of 16 bytes
    static DEVICE u32 place(u32 column, u32 keys4) {
        const u32 piece = keys4 / 4 * 2 + keys4 % 2, half = keys4 / 2 % 2;
        const u32 linear = column * kColumnPieces + piece, row = linear / 8;
        const u32 mixed = kColumnPieces >= 8 ? (row ^ row >> 3) & 7 : ((row ^ row >> 2) & 3) | (row >> 3 & 1) << 2;
        return row * 128 + ((linear % 8) ^ mixed) * 16 + half * 8;
    }
};

/// Copies tiles of 16-bit values or of codes that become such, transposed: a run is 16 keys of 64 columns, a lane four keys of
/// four columns.
template <u32 kSharers> struct ColumnCopy {
    static constexpr u32 kKeyRuns = BN / 16, kRuns = kKeyRuns * ((HEAD_V + 63) / 64);
    static constexpr u32 kCount = (kRuns + kSharers - 1) / kSharers;
    static constexpr u32 kPlaces = kSharers == 1 ? kKeyRuns : 1;
    static_assert(kSharers == 1 || kSharers % kKeyRuns == 0, "runs of a wave share keys");
    const Rows rows;
    const u32 keys4, column; // of the lane within a run
    u32x2 held[kCount][4]; // four codes: the first word

    DEVICE ColumnCopy(const Rows& rows_)
        : rows(rows_), keys4(lane_id() / 8 % 2 * 2 + lane_id() / 16 % 2),
          column(lane_id() / 32 * 32 + lane_id() % 8 * 4) {}

    static DEVICE u32 run(u32 number) { return wave_id() % kSharers + number * kSharers; }
    static DEVICE bool has(u32 number) { return kRuns % kSharers == 0 || run(number) < kRuns; }

    DEVICE void start(Lds, const Pages& pages, i32 row0) {
        Place places[kPlaces];
#pragma unroll
        for (u32 p = 0; p < kPlaces; p++) places[p] = pages.find(row0 + (i32)(run(p) % kKeyRuns * 16));
#pragma unroll
        for (u32 n = 0; n < kCount; n++) {
            if (!has(n)) continue;
            const Buffer buffer = buffer_of(rows.descriptor(places[n % kPlaces], 16));
            const u32 at = (run(n) / kKeyRuns * 64 + fresh(column)) * kCachedBytes;
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 offset = at < rows.column_bytes ? (keys4 * 4 + i) * rows.row_bytes + at : kNowhere;
                held[n][i] = CODES ? u32x2{buffer_load4(buffer, offset), 0} : buffer_load8(buffer, offset);
            }
        }
    }
    /// Four elements of four keys.
    DEVICE void elements(u32x2 (&rows4)[4], u32 number) const {
        const u32x2(&own)[4] = held[number];
        u32x4 pieces[2];
        if (CODES) widen_codes<ELEMENT>(u32x4{own[0].x, own[1].x, own[2].x, own[3].x}, pieces);
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            rows4[i] = CODES ? u32x2{pieces[i / 2][i % 2 * 2], pieces[i / 2][i % 2 * 2 + 1]} : own[i];
    }
    DEVICE void finish(Lds tile) {
#pragma unroll
        for (u32 n = 0; n < kCount; n++) {
            const u32 first = run(n) / kKeyRuns * 64 + column;
            if (!has(n) || (HEAD_V % 64 != 0 && first >= HEAD_V)) continue;
            u32x2 rows4[4];
            elements(rows4, n);
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                const u32x2 keys = {pick_halves(rows4[0][c / 2], rows4[1][c / 2], c % 2),
                                    pick_halves(rows4[2][c / 2], rows4[3][c / 2], c % 2)};
                *(LOCAL u32x2*)(tile + Columns::place(first + c, run(n) % kKeyRuns * 4 + keys4)) = keys;
            }
        }
    }
};

constexpr u32 no_swizzle(u32) { return 0; }
constexpr u32 kKeyBytes = panels_of(HEAD_QK) * BN * 128, kValueBytes = panels_of(HEAD_V) * BN * 128;
template <bool kIsWide, u32 kSharers> struct ValueCopyOf {
    typedef PanelCopy<panels_of(HEAD_V), no_swizzle, kSharers> Type;
};
template <u32 kSharers> struct ValueCopyOf<false, kSharers> { typedef ColumnCopy<kSharers> Type; };
template <u32 kSharers> using KeyCopy =
    typename Choose<CODES != 0, CodedPanelCopy<panels_of(HEAD_QK), key_swizzle, kSharers>,
                    PanelCopy<panels_of(HEAD_QK), key_swizzle, kSharers>>::Type;
template <u32 kSharers> using ValueCopy = typename ValueCopyOf<kElementBytes == 4, kSharers>::Type;

/// All copies that the wave started are in LDS.
DEVICE void finish_copies() {
    order();
    wait_lds();
}

/// SIZE columns of values as rows of a matrix product. A step is 16 (32 columns) or 32 (16 columns) 16-bit keys and half
/// as many of 32 bits, in the order in which the sums of products of that size hold them.
template <u32 SIZE> struct ValueReader {
    static DEVICE u32x4 read(Lds tile, u32 columns, u32 step) {
        const u32 column = columns * SIZE + lane_id() % SIZE, group = lane_id() / SIZE;
        u32x4 value;
        if (kElementBytes == 4) {
            const u32 first = step * (256 / SIZE) + group * 4;
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                value[i] = *(LOCAL u32*)(tile + column / 32 * (BN * 128) + (first + i) * 128 + column % 32 * 4);
            return value;
        }
        const u32 keys4 = SIZE == 32 ? step * 4 + group : step * 8 + group;
        const u32x2 low = *(LOCAL u32x2*)(tile + Columns::place(column, keys4));
        const u32x2 high = *(LOCAL u32x2*)(tile + Columns::place(column, keys4 + (SIZE == 32 ? 2 : 4)));
        return u32x4{low.x, low.y, high.x, high.y};
    }
};
