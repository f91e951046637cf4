//! Where the rows of a key/value cache lie in memory: contiguous for each sequence, or in pages of a pool.
//!
//! Every descriptor covers a few rows of one page, so that all addresses but a lane's own offset are scalar, and rows
//! past the sequence's end read zeros.
//!
//! Definitions from the unit: ELEMENT (BF16, F16 or F32), CODES (0: the cache holds elements; 1: E4M3 codes; 2: those of
//! whole numbers).

constexpr u32 kElementBytes = sizeof(ELEMENT::Bits);
constexpr u32 kCodesE4M3 = 1, kCodesWhole = 2;
/// Of a number in the cache.
constexpr u32 kCachedBytes = CODES ? 1 : kElementBytes;
/// Elements of the 16 bytes that a lane gives to a matrix product.
constexpr u32 kPieceElems = 16 / kElementBytes;

/// Distances in bytes, and the pool's extent. The planner writes it in this order.
struct CacheShape {
    i64 k_batch, k_row, k_head, v_batch, v_row, v_head; // batch: between sequences, or between pages
    u32 pages, page_magic; // page_magic: ceil(2^31 / (rows of a page / 16))
};

/// Memory that nothing writes while a kernel runs, read by scalar loads.
typedef const __attribute__((address_space(4))) i32* ConstantIntegers;

/// A row: its page (or sequence), its number there, and how many rows from it on exist (none: 0 or less).
struct Place {
    u32 page, row;
    i32 left;
    DEVICE Place behind(u32 rows) const { return Place{page, row + rows, left - (i32)rows}; }
};

/// The rows of one sequence.
struct Pages {
    ConstantIntegers table; // of the sequence
    u32 page_rows, magic, pages, batch; // 0 page rows: contiguous
    i32 kv_len;

    DEVICE Pages(const Arguments& a, const CacheShape& cache, i32 batch_, i32 kv_len_)
        : table((ConstantIntegers)(u64)(a.table + (i64)batch_ * a.shape.table_stride)), page_rows(a.shape.page_rows),
          magic(cache.page_magic), pages(cache.pages), batch(batch_), kv_len(kv_len_) {}

    DEVICE Place find(i32 row) const {
        Place place{batch, (u32)row, kv_len - row};
        if (page_rows) {
            // The table need not go past the last row.
            const u32 column = __umulhi((u32)min(row, kv_len - 1) / 16 * 2, magic);
            place.page = table[column];
            place.row -= column * page_rows;
            if (place.page >= pages) place.left = 0;
        }
        return place;
    }
};

/// The keys, or the values, of one head.
struct Rows {
    const u8* base;
    i64 page_bytes;
    u32 row_bytes, column_bytes; // column_bytes: of a row, that the head has

    static DEVICE Rows keys(const CacheShape& cache, const void* k, i32 head, i32 columns) {
        return Rows{(const u8*)k + head * cache.k_head, cache.k_batch, (u32)cache.k_row, columns * kCachedBytes};
    }
    static DEVICE Rows values(const CacheShape& cache, const void* v, i32 head, i32 columns) {
        return Rows{(const u8*)v + head * cache.v_head, cache.v_batch, (u32)cache.v_row, columns * kCachedBytes};
    }
    /// `count` rows at most; they are in one page.
    DEVICE u32x4 descriptor(const Place& place, i32 count) const {
        const i32 rows = max(0, min(place.left, count));
        const u32 records = rows == 0 ? 0 : (rows - 1) * row_bytes + column_bytes;
        return buffer_descriptor(base + place.page * page_bytes + (i64)place.row * row_bytes, records);
    }
};
/// An offset behind every descriptor's records.
constexpr u32 kNowhere = 0x80000000u;
