//! Tiles of keys (and values) in LDS: panels of 128 bytes of BN rows, in 16-byte pieces.
//!
//! Definitions from the unit: ELEMENT, HEAD_QK, HEAD_V, BN (rows of a tile).
//!
//!     tile:   | panel 0: BN rows x 128 bytes | panel 1 | ...        piece c of row r lies at c ^ key_swizzle(r)
//!
//! Example, bf16, BN = 64: column 72 of key 9 is panel 1 (8192), row 9 (1152), piece 1 ^ key_swizzle(9), byte 0.

constexpr u32 kGroups8 = BN / 8; // runs of 8 rows, which one wave-wide copy moves for one panel

/// Rows of 128 bytes that lie beside each other over the banks of a 16-byte read are permuted alike.
constexpr u32 key_swizzle(u32 row) { return row / (kLdsReadBanks / 32) % 8; }

constexpr u32 panels_of(u32 columns) { return (columns * kElementBytes + 127) / 128; }

/// A wave's share of the copy of a row-major tile of kPanels panels that kSharers waves share: every kSharers-th run of 8
/// rows of a panel. Lane i moves the piece that lies at i % 8 of row i / 8.
template <u32 kPanels, u32 (*kSwizzle)(u32), u32 kSharers> struct PanelShare {
    static constexpr u32 kRuns = kPanels * kGroups8, kCount = (kRuns + kSharers - 1) / kSharers;
    static_assert(kSharers % 2 == 0 || kSwizzle(8) == kSwizzle(0), "one swizzle for a wave's runs");
    u32 row_offset, piece_bytes, limit;

    DEVICE PanelShare(const Rows& rows)
        : row_offset(lane_id() / 8 * rows.row_bytes),
          piece_bytes((lane_id() % 8 ^ kSwizzle(wave_id() % kSharers % 2 * 8 + lane_id() / 8)) * 16),
          limit(rows.column_bytes) {}

    /// Places that the share's runs begin in, 16 rows or less behind each; none across a page.
    static constexpr u32 kPlaces = kSharers == 1 ? BN / 16 : kGroups8 > kSharers ? kGroups8 / kSharers : 1;
    static_assert(kSharers == 1 || kSharers % kGroups8 == 0 || kGroups8 % kSharers == 0, "runs of a wave share rows");

    static DEVICE u32 run(u32 number) { return wave_id() % kSharers + number * kSharers; }
    static DEVICE bool has(u32 number) { return kRuns % kSharers == 0 || run(number) < kRuns; }
    DEVICE void find(Place (&places)[kPlaces], const Pages& pages, i32 row0) const {
#pragma unroll
        for (u32 p = 0; p < kPlaces; p++)
            places[p] = pages.find(row0 + (i32)(kSharers == 1 ? p * 16 : run(p) % kGroups8 * 8));
    }
    /// Of the run's first row.
    static DEVICE Place place(const Place (&places)[kPlaces], u32 number) {
        return kSharers == 1 ? places[number % kGroups8 / 2].behind(number % 2 * 8) : places[number % kPlaces];
    }
    DEVICE u32 offset(u32 number) const {
        const u32 column = run(number) / kGroups8 * 128 + fresh(piece_bytes);
        return column < limit ? row_offset + column : kNowhere;
    }
};

/// 32 keys as rows of a matrix product: lane l holds row l % 32, pieces 2 step + l / 32 of its columns.
struct KeyReader {
    u32 row, half;
    DEVICE KeyReader() : row(lane_id() % 32 * 128), half(lane_id() / 32 ^ key_swizzle(lane_id() % 32)) {}

    DEVICE u32x4 read(Lds tile, u32 keys32, u32 step) const {
        return *(LOCAL u32x4*)(tile + step / 4 * (BN * 128) + keys32 * (32 * 128) + row + ((step % 4 * 2) ^ half) * 16);
    }
};
