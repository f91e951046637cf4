//! Rows of a key/value cache, contiguous for each sequence or in pages of a pool, on their way into shared memory.
//!
//! Definitions from the unit: THREADS (of a block), CODES (1: the cache holds e4m3 codes). BN, the rows of a block, comes
//! from it or from a text before this one.

/// Distances in bytes, and the pool's extent. The planner writes it in this order.
struct CacheShape {
    i64 k_batch, k_row, k_head, v_batch, v_row, v_head; // batch: between sequences, or between pages
    u32 pages, page_magic; // page_magic: ceil(2^31 / (rows of a page / 16))
};

constexpr int kPieceColumns = CODES ? 16 : 8; // of 16 bytes

/// The rows of one sequence's head.
struct CacheRows {
    const u8 *k, *v;
    const i32* table;
    i64 k_page, v_page;
    u32 k_row, v_row, page_rows, pages, magic;
    i32 kv_len, k_columns, v_columns;

    DEVICE CacheRows() {}
    DEVICE CacheRows(const Arguments& a, const CacheShape& cache, const u8* k_, const u8* v_, i32 batch, i32 head, i32 len)
        : table(a.table + (i64)batch * a.shape.table_stride), k_page(cache.k_batch), v_page(cache.v_batch),
          k_row((u32)cache.k_row), v_row((u32)cache.v_row), page_rows(a.shape.page_rows), pages(cache.pages),
          magic(cache.page_magic), kv_len(len), k_columns(a.shape.head_qk), v_columns(a.shape.head_v) {
        k = k_ + head * cache.k_head + (page_rows ? 0 : batch * cache.k_batch);
        v = v_ + head * cache.v_head + (page_rows ? 0 : batch * cache.v_batch);
    }

    /// Starts copying the block of rows from `row0` on into panels; rows and columns that do not exist become zeros.
    template <int kPanels> DEVICE void copy(u32 tile, bool is_value, i32 row0) const {
        constexpr int kPieces = kPanels * kRowBytes / 16, kCopies = BN * kPieces / THREADS;
        static_assert(BN * kPieces % THREADS == 0, "threads copy as many pieces each");
        const i64 page_bytes = is_value ? v_page : k_page;
        const u32 row_bytes = is_value ? v_row : k_row;
        const i32 columns = is_value ? v_columns : k_columns;
        const u8* base = is_value ? v : k;
        if (THREADS % kPieces == 0 && !page_rows && row0 + BN <= kv_len && columns == kPieces * kPieceColumns) {
            // A thread stays at its piece of every so many rows.
            constexpr int kStep = THREADS / kPieces;
            const u32 piece = threadIdx.x % kPieces, row = threadIdx.x / kPieces;
            const u8* from = base + (i64)(row0 + row) * row_bytes + piece * 16;
            const i64 distance = (i64)row_bytes * kStep;
#pragma unroll
            for (int i = 0; i < kCopies; i++, from += distance) copy16_whole(tile + place(piece, row + i * kStep), from);
            return;
        }
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const u32 index = i * THREADS + threadIdx.x;
            const u32 piece = index % kPieces, row = index / kPieces, from = row0 + row;
            bool exists = (i32)from < kv_len && (i32)(piece * kPieceColumns) < columns;
            i64 at = (i64)from * row_bytes;
            if (page_rows && exists) {
                const u32 column = __umulhi(from / 16 * 2, magic), page = table[column];
                exists = page < pages;
                at = page * page_bytes + (i64)(from - column * page_rows) * row_bytes;
            }
            copy16_part(tile + place(piece, row), base + (exists ? at + piece * 16 : 0), exists ? 16 : 0);
        }
    }
    /// Where a piece of a row lies in the panels.
    static DEVICE u32 place(u32 piece, u32 row) {
        constexpr u32 kAcross = kRowBytes / 16;
        return piece / kAcross * (BN * kRowBytes) + swizzled<kRowBytes>(row, piece % kAcross * 16);
    }
};
