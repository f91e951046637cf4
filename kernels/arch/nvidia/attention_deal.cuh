//! How blocks of keys are dealt out to thread blocks when queries are few: evenly, whatever the lengths.
//!
//! An item is a (sequence, run of HEADS key/value heads, tile of kHeadRows packed rows of each). The key blocks of all items in order are
//! numbered, and thread block c takes a run of the numbers:
//!
//!     items          |  0: 5 blocks  | 1: 5 blocks  | 2: 5 blocks  |
//!     thread block   |  0: 4     | 1: 4     | 2: 4     | 3: 3      |      item 0 is in two pieces, item 1 in three
//!
//! Definitions from the unit: ROWS, HEADS.

/// Keys of a block.
constexpr int BN = 64;
/// Rows of a tile that belong to one key/value head.
constexpr int kHeadRows = ROWS / HEADS;
static_assert(ROWS % (16 * HEADS) == 0, "a row tile of the product is of one head");
/// Number of a row of a tile within its head, of the head, and rows of a tile where each head has so many: the compiler
/// does not know that a tile of one head has no others.
DEVICE i32 row_of(i32 tile_row) { return HEADS == 1 ? tile_row : tile_row % kHeadRows; }
DEVICE i32 head_of(i32 tile_row) { return HEADS == 1 ? 0 : tile_row / kHeadRows; }
DEVICE i32 tile_end(i32 rows) { return HEADS == 1 ? rows : ROWS; }
/// Sequences at most, for the numbers of their blocks in shared memory.
constexpr int kMaxBatch = 1024;

/// Key blocks [begin, begin + count) of a sequence, at least one so that its rows are written.
struct Span {
    i32 begin, count;
    DEVICE Span(const Arguments& a, const Sequence& sequence) {
        begin = sequence.key_begin(a.shape, 0) / BN;
        count = max(1, ceil_div(max(sequence.key_end(a.shape, sequence.q_len - 1), 0), BN) - begin);
    }
};

/// Items of a sequence: tiles of its own rows, for every run of key/value heads.
DEVICE i32 items_of(const Arguments& a, const Sequence& sequence) {
    return a.shape.kv_heads / HEADS * ceil_div(sequence.q_len * a.shape.group, kHeadRows);
}

/// The run of key blocks of thread block c.
struct Deal {
    i32 each, extra;
    DEVICE Deal(i32 total) : each(total / gridDim.x), extra(total % gridDim.x) {}
    DEVICE i32 begin(i32 c) const { return c * each + min(c, extra); }
    DEVICE i32 owner(i32 unit) const {
        const i32 wide = extra * (each + 1);
        return unit < wide ? unit / (each + 1) : extra + (unit - wide) / each;
    }
};

/// The part of an item that falls into a thread block's run.
struct Piece {
    i32 batch, head, row0;   // head: the first; row0: first packed row of each, of which there are q_len * group
    i32 item, first, count;  // item: its number; its key blocks [first, first + count) counted from the span's begin
    i32 item_begin, item_count;

    DEVICE Piece(const Arguments& a, const i32* starts, i32 unit, i32 end) {
        i32 low = 0, high = a.shape.batch;
        while (high - low > 1) {
            const i32 middle = (low + high) / 2;
            if (starts[middle] <= unit) low = middle;
            else high = middle;
        }
        batch = low;
        item_count = Span(a, Sequence(a.shape, low, a.lengths, a.q_offsets)).count;
        const i32 within = (unit - starts[low]) / item_count;
        const i32 runs = a.shape.kv_heads / HEADS;
        item = low * runs * a.shape.row_tiles + within;
        head = within % runs * HEADS;
        row0 = within / runs * kHeadRows;
        item_begin = starts[low] + within * item_count;
        first = unit - item_begin;
        count = min(item_count - first, end - unit);
    }
    DEVICE bool is_whole() const { return count == item_count; }
    /// Rows of a head that the item has.
    DEVICE i32 head_rows(const Arguments& a, const Sequence& sequence) const {
        return min(kHeadRows, sequence.q_len * a.shape.group - row0);
    }
};

/// Numbers the key blocks of all sequences: those of sequence b are [starts[b], starts[b + 1]), over all its items.
DEVICE void number_blocks(const Arguments& a, i32* starts) {
    const bool is_uniform = a.lengths == nullptr && a.q_offsets == nullptr;
    for (i32 b = threadIdx.x; b < a.shape.batch; b += blockDim.x) {
        const Sequence sequence(a.shape, b, a.lengths, a.q_offsets);
        const i32 blocks = Span(a, sequence).count * items_of(a, sequence);
        starts[b + 1] = is_uniform ? blocks * (b + 1) : blocks;
    }
    if (threadIdx.x == 0) starts[0] = 0;
    __syncthreads();
    if (is_uniform) return;
    if (threadIdx.x < 32) {
        i32 carry = 0;
        for (i32 b0 = 0; b0 < a.shape.batch; b0 += 32) {
            const i32 b = b0 + threadIdx.x;
            i32 value = b < a.shape.batch ? starts[b + 1] : 0;
#pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const i32 below = __shfl_up_sync(0xffffffffu, value, step);
                if (threadIdx.x >= step) value += below;
            }
            if (b < a.shape.batch) starts[b + 1] = carry + value;
            carry += __shfl_sync(0xffffffffu, value, 31);
        }
    }
    __syncthreads();
}
