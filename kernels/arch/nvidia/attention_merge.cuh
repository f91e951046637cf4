//! How few-row attention finishes an item: normalises its sums, after merging those of its pieces where it was cut.
//!
//! Definitions from the unit: ELEMENT, HEAD_V, ROWS, HEADS and CODES.

constexpr int kSlices = 4; // warps that share the keys of a block; as many again for each further 16 rows
constexpr int kWarps = kSlices * ROWS / 16, kConsumerThreads = 32 * kWarps;

/// The sums of a piece in shared memory after the slices were added up.
struct Joined {
    float (*out)[HEAD_V]; // [ROWS], relative to row_max
    float (*max)[ROWS];   // [kSlices], in powers of two
    float (*sum)[ROWS];   // [kSlices], each relative to its own maximum

    /// The maximum of a row over the slices, in powers of two; 0 where no key was seen.
    DEVICE float row_max(int row) const {
        float top = max[0][row];
#pragma unroll
        for (int w = 1; w < kSlices; w++) top = fmaxf(top, max[w][row]);
        return top == kMinusInfinity ? 0.0f : top;
    }
    DEVICE float row_sum(int row) const {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < kSlices; w++) total += sum[w][row] * exp2_approx(max[w][row] - row_max(row));
        return total;
    }
    /// The lane's columns of a row.
    DEVICE void load(float (&values)[HEAD_V / 32], int row) const {
#pragma unroll
        for (int i = 0; i < HEAD_V / 32; i++) values[i] = out[row][threadIdx.x % 32 + 32 * i];
    }
};

/// Where rows of an item go, and how they are finished.
struct Result {
    const Arguments& a;
    u16* out;
    const float* sinks;
    CodeScales scales;

    /// Writes lane's columns of a row of the tile: values relative to `max` (in powers of two), whose weights sum to `sum`.
    DEVICE void write(const Piece& piece, const Sequence& sequence, i32 tile_row, const float (&values)[HEAD_V / 32],
                      float max, float sum) const {
        const i32 packed = piece.row0 + row_of(tile_row), kv_head = piece.head + head_of(tile_row);
        const i32 row = packed / a.shape.group, head = kv_head * a.shape.group + packed % a.shape.group;
        const float total = sum == 0.0f ? 0.0f : sum + (sinks ? exp2_approx(sinks[head] * kLog2E - max) : 0.0f);
        const float inverse = total == 0.0f ? 0.0f : (CODES ? scales.of_values(kv_head) : 1.0f) / total;
        u16* line = out + (a.q_offsets ? 0 : piece.batch * a.shape.out_batch) +
                    (sequence.q_start + row) * a.shape.out_row + head * a.shape.out_head;
#pragma unroll
        for (int i = 0; i < HEAD_V / 32; i++) {
            const int column = threadIdx.x % 32 + 32 * i;
            if (column < a.shape.head_v) line[column] = (u16)pack2<ELEMENT>(values[i] * inverse, 0.0f);
        }
    }
};

/// Pieces of items in the workspace: two for each thread block (0: the end of an item begun before its run, 1: an item
/// that its run ends in or that it begins).
struct Pieces {
    u32* tickets;   // one for each item, zero between launches
    float* out;     // [blocks][2][ROWS][HEAD_V]
    float2* state;  // [blocks][2][ROWS]: maximum in powers of two, sum

    DEVICE i64 slot(i32 block, bool begins) const { return ((i64)block * 2 + begins) * ROWS; }

    DEVICE i32 count(const Piece& piece, const Deal& deal) const {
        return deal.owner(piece.item_begin + piece.item_count - 1) - deal.owner(piece.item_begin) + 1;
    }
    /// Thread 0 asks, ahead of a block barrier, whether all other pieces of the item are in the workspace.
    DEVICE void look(u32& is_last, const Piece& piece, const Deal& deal) const {
        if (threadIdx.x == 0) is_last = load_acquire(&tickets[piece.item]) == count(piece, deal) - 1;
    }

    /// Leaves a piece, of each head the rows below `rows`; true for the thread block that left the last one of the item.
    /// `is_last` is in shared memory.
    DEVICE bool leave(u32& is_last, const Joined& joined, const Piece& piece, const Deal& deal, i32 rows) const {
        const i64 at = slot(blockIdx.x, piece.first == 0);
#pragma unroll 1
        for (i32 row = threadIdx.x / 32; row < tile_end(rows); row += kWarps) {
            if (row_of(row) >= rows) continue;
#pragma unroll
            for (int i = 0; i < HEAD_V / 32; i++)
                out[(at + row) * HEAD_V + threadIdx.x % 32 + 32 * i] = joined.out[row][threadIdx.x % 32 + 32 * i];
        }
        const int own_row = threadIdx.x;
        if (own_row < tile_end(rows) && row_of(own_row) < rows) state[at + own_row] = float2{joined.row_max(own_row), joined.row_sum(own_row)};
        __threadfence();
        named_barrier<1, kConsumerThreads>();
        if (threadIdx.x == 0) {
            is_last = atomicAdd(&tickets[piece.item], 1) == count(piece, deal) - 1;
            __threadfence();
        }
        named_barrier<1, kConsumerThreads>();
        return is_last;
    }

    /// Pieces whose loads are in flight together.
    static constexpr int kBatch = HEAD_V > 128 ? 4 : 8;
    /// Merges the pieces of an item, its own from shared memory, a row to a warp at a time.
    DEVICE void merge(const Joined& joined, const Piece& piece, const Sequence& sequence, const Deal& deal,
                      const Result& result, i32 rows) const {
        const i32 first = deal.owner(piece.item_begin), last = first + count(piece, deal) - 1;
        const int lane = threadIdx.x % 32;
#pragma unroll 1
        for (i32 row = threadIdx.x / 32; row < tile_end(rows); row += kWarps) {
            if (row_of(row) >= rows) continue;
            float top = kMinusInfinity, total = 0.0f, values[HEAD_V / 32] = {};
            for (i32 c = first + lane; c <= last; c += 32) {
                float2 s = float2{joined.row_max(row), joined.row_sum(row)};
                if (c != blockIdx.x) s = __ldcg(&state[slot(c, c == first) + row]);
                if (s.y > 0.0f) top = fmaxf(top, s.x);
            }
#pragma unroll
            for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
            top = top == kMinusInfinity ? 0.0f : top;
            for (i32 c0 = first; c0 <= last; c0 += kBatch) {
                float2 states[kBatch];
                float parts[kBatch][HEAD_V / 32];
#pragma unroll
                for (int n = 0; n < kBatch; n++) {
                    const i32 c = c0 + n;
                    const i64 at = slot(c, c == first) + row;
                    const bool exists = c <= last && c != blockIdx.x;
                    states[n] = exists ? __ldcg(&state[at]) : float2{0.0f, 0.0f};
#pragma unroll
                    for (int i = 0; i < HEAD_V / 32; i++)
                        parts[n][i] = exists ? __ldcg(&out[at * HEAD_V + lane + 32 * i]) : 0.0f;
                }
#pragma unroll
                for (int n = 0; n < kBatch; n++) add(values, total, states[n], top, parts[n]);
            }
            float own[HEAD_V / 32];
            joined.load(own, row);
            add(values, total, float2{joined.row_max(row), joined.row_sum(row)}, top, own);
            result.write(piece, sequence, row, values, top, total);
        }
        if (threadIdx.x == 0) tickets[piece.item] = 0;
    }
    static DEVICE void add(float (&values)[HEAD_V / 32], float& total, float2 state, float top,
                           const float (&part)[HEAD_V / 32]) {
        const float factor = state.y > 0.0f ? exp2_approx(state.x - top) : 0.0f;
        total += state.y * factor;
#pragma unroll
        for (int i = 0; i < HEAD_V / 32; i++) values[i] += part[i] * factor;
    }
};
