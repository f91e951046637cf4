//! How CDNA4 brings keys and values into LDS and reads values: straight from memory in 16-byte pieces, codes through
//! registers; values stay row-major, and 16-bit ones are transposed by the read.

/// 16-bit values are read by quarters of four or eight neighbouring rows, 64 or 32 bytes of each: pairs of rows have their
/// halves and quarters exchanged in turn.
constexpr u32 value_swizzle(u32 row) { return kElementBytes == 2 ? row / 2 % 2 * 4 + row / 4 % 2 * 2 : 0; }

/// Copies tiles of kPanels panels.
template <u32 kPanels, u32 (*kSwizzle)(u32), u32 kSharers> struct PanelCopy {
    typedef PanelShare<kPanels, kSwizzle, kSharers> Share;
    const Rows rows;
    const Share share;

    DEVICE PanelCopy(const Rows& rows_) : rows(rows_), share(rows_) {}

    /// Starts to copy the wave's share of the tile whose first row is `row0`.
    DEVICE void start(Lds tile, const Pages& pages, i32 row0) {
        const u32 base = lds_address(tile);
        Place places[Share::kPlaces];
        share.find(places, pages, row0);
#pragma unroll
        for (u32 n = 0; n < Share::kCount; n++) {
            if (!Share::has(n)) continue;
            const u32x4 descriptor = rows.descriptor(Share::place(places, n), 8);
            load_to_lds<0>(descriptor, share.offset(n), base + Share::run(n) * 1024);
        }
    }
    DEVICE void finish(Lds) {}
};

constexpr u32 kKeyBytes = panels_of(HEAD_QK) * BN * 128, kValueBytes = panels_of(HEAD_V) * BN * 128;
template <u32 kPanels, u32 (*kSwizzle)(u32), u32 kSharers> using Copy =
    typename Choose<CODES != 0, CodedPanelCopy<kPanels, kSwizzle, kSharers>, PanelCopy<kPanels, kSwizzle, kSharers>>::Type;
template <u32 kSharers> using KeyCopy = Copy<panels_of(HEAD_QK), key_swizzle, kSharers>;
template <u32 kSharers> using ValueCopy = Copy<panels_of(HEAD_V), value_swizzle, kSharers>;

/// All copies that the wave started are in LDS.
DEVICE void finish_copies() {
    if (CODES) {
        order();
        wait_lds();
    } else {
        wait_loads<0>();
    }
}

/// SIZE columns of values as rows of a matrix product. A step is 16 (32 columns) or 32 (16 columns) 16-bit keys and half
/// as many of 32 bits, in the order in which the sums of products of that size hold them.
template <u32 SIZE> struct ValueReader {
    static DEVICE u32x4 read(Lds tile, u32 columns, u32 step) {
        const u32 l = lane_id(), group = l / SIZE;
        if (kElementBytes == 4) {
            const u32 column = columns * SIZE + l % SIZE, first = step * (256 / SIZE) + group * 4;
            u32x4 value;
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                value[i] = *(LOCAL u32*)(tile + column / 32 * (BN * 128) + (first + i) * 128 + column % 32 * 4);
            return value;
        }
        // Of each 16 lanes: four rows, of which a lane names a quarter of 16 columns.
        const u32 row = step * (SIZE == 32 ? 16 : 32) + group * 4 + l % 16 / 4;
        const u32 byte = columns * SIZE * 2 + (SIZE == 32 ? l / 16 % 2 * 32 : 0) + l % 4 * 8;
        const Lds at = tile + byte / 128 * (BN * 128) + row * 128 + ((byte % 128) ^ value_swizzle(row % 8) * 16);
        const u32x2 low = lds_read_transposed16(at), high = lds_read_transposed16(at + (SIZE == 32 ? 8 : 16) * 128);
        return u32x4{low.x, low.y, high.x, high.y};
    }
};
