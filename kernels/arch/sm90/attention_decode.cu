//! Attention of a few query rows over a long cache: every key and value is read once, at the speed of memory.
//!
//! The query heads that share a key/value head are folded into the rows of one product. One block is 4 or 8 consumer
//! warps and a producer warp that starts bulk copies. Blocks of BN keys are dealt out evenly, so that a run may begin
//! and end inside an item; items cut in pieces are merged by the block that finishes last.
//!
//! Definitions from the unit: SYMBOL, ELEMENT (BF16 or F16), HEAD_QK, HEAD_V, ROWS (16 or 32), STAGES,
//! SHARED_BYTES (of a block).

static_assert(ROWS == 16 || ROWS == 32, "row tiles of the warp product");
static_assert(HEAD_QK % 16 == 0 && HEAD_V % 32 == 0, "head sizes");

constexpr int kThreads = kConsumerThreads + 32;
constexpr int kQPanels = (HEAD_QK + 63) / 64, kVPanels = (HEAD_V + 63) / 64;
constexpr int kPanelBytes = BN * 128;
constexpr int kKBytes = kQPanels * kPanelBytes, kVBytes = kVPanels * kPanelBytes;
constexpr bool kQueryInShared = HEAD_QK > 128; // registers hold the outputs of such heads and no more

/// A stage is BN keys and their values in panels of 64 columns, rows of 128 bytes, swizzled by the copy engine. Warp w
/// works on query rows 16 (w / 4) and following, and on one slice of the keys, with maxima and sums of its own:
///
///     row of a panel     0 .. 15 | 16 .. 31 | 32 .. 47 | 48 .. 63
///     consumer warp       0, 4   |   1, 5   |   2, 6   |   3, 7
///
/// Example: key 100 is row 36 of the second block, in slice 2; its columns 8 to 15 are 16-byte piece 1 ^ (36 % 8) = 5.
struct Shared {
    u8 k[STAGES][kKBytes];
    u8 v[STAGES][kVBytes];
    float out[ROWS][HEAD_V];
    float max[kSlices][ROWS], sum[kSlices][ROWS];
    uint4 query[kQueryInShared ? ROWS / 16 * HEAD_QK / 16 : 1][32]; // fragments of the row tiles
    i32 starts[kMaxBatch + 1]; // number of the first key block of each sequence, over all its items
    u64 full[STAGES], empty[STAGES];
    u32 is_last;
};
static_assert(sizeof(Shared) == SHARED_BYTES, "what the planner asks for");

/// The producer warp: lane i copies piece i of every block (pages may be shorter than a block). The page numbers of the
/// next 32 pieces are asked for while those of the last 32 are used; a page outside the pool reads zeros.
DEVICE void produce(const Arguments& a, Shared& shared, const TensorMap* k_map, const TensorMap* v_map, i32 unit,
                    i32 end) {
    const i32 lane = threadIdx.x % 32;
    const i32 page_rows = a.shape.page_rows, rows = page_rows ? a.shape.piece_rows : BN, pieces = BN / rows;
    u32 stage = 0, parity = 1;
    while (unit < end) {
        const Piece piece(a, shared.starts, unit, end);
        const Sequence sequence(a.shape, piece.batch, a.lengths, a.q_offsets);
        const i32 row0 = (Span(a, sequence).begin + piece.first) * BN;
        const i32* pages = a.table + (i64)piece.batch * a.shape.table_stride;
        const auto page_of = [&](i32 number) {
            const i32 row = row0 + number * rows;
            return row < sequence.kv_len ? pages[row / page_rows] : -1;
        };
        i32 ids = page_rows ? page_of(lane) : 0, next_ids = 0;
        for (i32 i = 0; i < piece.count; i++) {
            const i32 place = i * pieces % 32;
            if (page_rows && place == 0) {
                if (i > 0) ids = next_ids;
                next_ids = page_of(i * pieces + 32 + lane);
            }
            const i32 id = page_rows ? __shfl_sync(0xffffffffu, ids, place + lane % pieces) : piece.batch;
            barrier_wait(&shared.empty[stage], parity);
            if (lane == 0) barrier_expect(&shared.full[stage], kKBytes + kVBytes);
            __syncwarp();
            if (lane < pieces) {
                const i32 row = row0 + (i * pieces + lane) * rows, y = page_rows ? row % page_rows : row;
#pragma unroll
                for (int p = 0; p < kQPanels; p++)
                    tensor_load(shared.k[stage] + p * kPanelBytes + lane * rows * 128, k_map, &shared.full[stage],
                                p * 64, y, piece.head, id, kCacheEvictFirst);
#pragma unroll
                for (int p = 0; p < kVPanels; p++)
                    tensor_load(shared.v[stage] + p * kPanelBytes + lane * rows * 128, v_map, &shared.full[stage],
                                p * 64, y, piece.head, id, kCacheEvictFirst);
            }
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        unit += piece.count;
    }
}

/// A consumer warp. Lane l holds rows l/4 and 8 more of the warp's row tile, columns 8j + 2(l%4) + {0, 1}.
struct Consumer {
    const Arguments& a;
    Shared& shared;
    const int warp, lane, slice, tile_row; // tile_row: the thread's first row
    u32 query[kQueryInShared ? 1 : HEAD_QK / 16][4];
    float out[HEAD_V / 8][4];
    float max[2], sum[2];
    i32 begin[2], end[2];
    u32 stage = 0, parity = 0;

    DEVICE Consumer(const Arguments& a_, Shared& shared_)
        : a(a_), shared(shared_), warp(threadIdx.x / 32), lane(threadIdx.x % 32), slice(threadIdx.x / 32 % kSlices),
          tile_row(threadIdx.x / 32 / kSlices * 16 + threadIdx.x % 32 / 4) {}

    DEVICE void start(const Piece& piece, const Sequence& sequence, const u16* q) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const i32 packed = piece.row0 + tile_row + 8 * r;
            const i32 row = packed / a.shape.group, head = piece.head * a.shape.group + packed % a.shape.group;
            const bool exists = row < sequence.q_len;
            end[r] = exists ? sequence.key_end(a.shape, row) : 0;
            begin[r] = sequence.key_begin(a.shape, row);
            max[r] = kMinusInfinity, sum[r] = 0.0f;
            const u16* line = q + (a.q_offsets ? 0 : piece.batch * a.shape.q_batch) +
                              (sequence.q_start + row) * a.shape.q_row + head * a.shape.q_head + lane % 4 * 2;
#pragma unroll
            for (int d = 0; d < HEAD_QK / 16; d++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const bool inside = exists && 16 * d + 8 * h < a.shape.head_qk;
                    const u32 pair = inside ? *(const u32*)(line + 16 * d + 8 * h) : 0;
                    if (kQueryInShared) reinterpret_cast<u32*>(fragment(d))[r + 2 * h] = pair;
                    else query[d][r + 2 * h] = pair;
                }
        }
#pragma unroll
        for (int j = 0; j < HEAD_V / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[j][i] = 0.0f;
    }

    /// The thread's part of step d of the queries; the warps of a row tile write the same there.
    DEVICE uint4* fragment(int d) { return &shared.query[warp / kSlices * (HEAD_QK / 16) + d][lane]; }

    /// Scores of the warp's 16 keys.
    DEVICE void score(float (&s)[2][4]) {
#pragma unroll
        for (int i = 0; i < 8; i++) s[i / 4][i % 4] = 0.0f;
        const u32 tile = shared_address(shared.k[stage]);
        const u32 row = slice * 16 + lane / 16 * 8 + lane % 8, half = lane / 8 % 2 * 16;
#pragma unroll
        for (int d = 0; d < HEAD_QK / 16; d++) {
            u32 key[4];
            matrix_load4(key, tile + d / 4 * kPanelBytes + swizzled<128>(row, d % 4 * 32 + half));
            u32 row_part[4];
            if (kQueryInShared) {
                const uint4 part = *fragment(d);
                row_part[0] = part.x, row_part[1] = part.y, row_part[2] = part.z, row_part[3] = part.w;
            } else {
#pragma unroll
                for (int i = 0; i < 4; i++) row_part[i] = query[d][i];
            }
            warp_mma<ELEMENT>(s[0], row_part, key[0], key[1]);
            warp_mma<ELEMENT>(s[1], row_part, key[2], key[3]);
        }
    }

    /// Scores become weights; the outputs follow the maxima. `column0` is the number of the thread's first key.
    template <bool kMasked> DEVICE void weigh(float (&s)[2][4], i32 column0) {
        const float scale = a.shape.scale_log2;
        float top[2];
        bool grows = false;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float& score = s[i / 4][i % 4];
            const int r = i / 2 % 2;
            const i32 column = column0 + i / 4 * 8 + i % 2;
            if (a.shape.cap_scale != 0.0f) score = soft_cap(score, a.shape.cap_scale);
            if (kMasked && (column >= end[r] || column < begin[r])) score = kMinusInfinity;
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
            top[r] = fmaxf(top[r], max[r]);
            grows = grows || (top[r] - max[r]) * scale > kLazyGrowth;
        }
        if (__any_sync(0xffffffffu, grows)) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float alpha = exp2_approx((max[r] - (top[r] == kMinusInfinity ? 0.0f : top[r])) * scale);
                max[r] = top[r];
                sum[r] *= alpha;
#pragma unroll
                for (int j = 0; j < HEAD_V / 8; j++) out[j][2 * r] *= alpha, out[j][2 * r + 1] *= alpha;
            }
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int r = i / 2 % 2;
            const float base = (max[r] == kMinusInfinity ? 0.0f : max[r]) * scale;
            float& score = s[i / 4][i % 4];
            score = exp2_approx(fmaf(score, scale, -base));
            sum[r] += score;
        }
    }

    /// Adds the weighted values of the warp's 16 keys.
    DEVICE void gather(const float (&s)[2][4]) {
        u32 weight[4];
#pragma unroll
        for (int i = 0; i < 4; i++) weight[i] = pack2<ELEMENT>(s[i / 2][i % 2 * 2], s[i / 2][i % 2 * 2 + 1]);
        const u32 tile = shared_address(shared.v[stage]);
        const u32 row = slice * 16 + lane / 8 % 2 * 8 + lane % 8, half = lane / 16 * 16;
#pragma unroll
        for (int d = 0; d < HEAD_V / 16; d++) {
            u32 value[4];
            matrix_load4_transposed(value, tile + d / 4 * kPanelBytes + swizzled<128>(row, d % 4 * 32 + half));
            warp_mma<ELEMENT>(out[2 * d], weight, value[0], value[1]);
            warp_mma<ELEMENT>(out[2 * d + 1], weight, value[2], value[3]);
        }
    }

    /// Value rows past the end of the keys hold what the caller's memory held; 0 * NaN is NaN.
    DEVICE void clear_tail(i32 first_key, i32 kv_len) {
        for (i32 i = lane; i < 16 * 8 * kVPanels; i += 32) {
            const i32 row = i / 8 % 16, panel = i / 128;
            if (first_key + row >= kv_len)
                *reinterpret_cast<uint4*>(shared.v[stage] + panel * kPanelBytes + (slice * 16 + row) * 128 +
                                          i % 8 * 16) = uint4{0, 0, 0, 0};
        }
        fence_async_shared();
        __syncwarp();
    }

    DEVICE void blocks(const Piece& piece, const Sequence& sequence) {
        i32 key = (Span(a, sequence).begin + piece.first) * BN + slice * 16;
        const i32 plain_begin = sequence.key_begin(a.shape, sequence.q_len - 1);
        const i32 plain_end = sequence.key_end(a.shape, 0);
        for (i32 i = 0; i < piece.count; i++, key += BN) {
            barrier_wait(&shared.full[stage], parity);
            if (key + 16 > sequence.kv_len) clear_tail(key, sequence.kv_len);
            float s[2][4];
            score(s);
            if (key >= plain_begin && key + 16 <= plain_end) weigh<false>(s, key + lane % 4 * 2);
            else weigh<true>(s, key + lane % 4 * 2);
            gather(s);
            __syncwarp();
            if (lane == 0) barrier_arrive(&shared.empty[stage]);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
    }

    /// Adds up the outputs of the slices in shared memory, relative to their common maxima: rows below `rows`.
    DEVICE void join(i32 rows) {
        const float scale = a.shape.scale_log2;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
            const int row = tile_row + 8 * r;
            if (lane % 4 == 0) shared.max[slice][row] = max[r] * scale, shared.sum[slice][row] = sum[r];
        }
        named_barrier<1, kConsumerThreads>();
        for (int turn = 0; turn < kSlices; turn++) {
            if (turn == slice) add_out(turn == 0, rows);
            named_barrier<1, kConsumerThreads>();
        }
    }
    DEVICE Joined joined() const { return Joined{shared.out, shared.max, shared.sum}; }
    DEVICE void add_out(bool is_first, i32 rows) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = tile_row + 8 * r;
            if (row >= rows) continue;
            const float factor = exp2_approx(shared.max[slice][row] - joined().row_max(row));
#pragma unroll
            for (int j = 0; j < HEAD_V / 8; j++) {
                float2& at = *reinterpret_cast<float2*>(&shared.out[row][8 * j + lane % 4 * 2]);
                float2 value = is_first ? float2{0.0f, 0.0f} : at;
                value.x += out[j][2 * r] * factor, value.y += out[j][2 * r + 1] * factor;
                at = value;
            }
        }
    }
};

DEVICE void consume(const Arguments& a, Shared& shared, const u16* q, const Result& result, const Pieces& pieces,
                    const Deal& deal, i32 unit, i32 end) {
    Consumer consumer(a, shared);
    while (unit < end) {
        const Piece piece(a, shared.starts, unit, end);
        const Sequence sequence(a.shape, piece.batch, a.lengths, a.q_offsets);
        consumer.start(piece, sequence, q);
        consumer.blocks(piece, sequence);
        if (!piece.is_whole()) pieces.look(shared.is_last, piece, deal);
        const i32 rows = min(ROWS, sequence.q_len * a.shape.group - piece.row0);
        consumer.join(rows);
        const Joined joined = consumer.joined();
        if (piece.is_whole()) {
            for (i32 row = consumer.warp; row < rows; row += kWarps) {
                float values[HEAD_V / 32];
                joined.load(values, row);
                result.write(piece, sequence, piece.row0 + row, values, joined.row_max(row), joined.row_sum(row));
            }
        } else if (shared.is_last || pieces.leave(shared.is_last, joined, piece, deal, rows)) {
            pieces.merge(joined, piece, sequence, deal, result, rows);
        }
        named_barrier<1, kConsumerThreads>();
        unit += piece.count;
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    SYMBOL(const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map,
           const __grid_constant__ AttentionShape shape, const u16* q, u16* out, const i32* lengths,
           const i32* q_offsets, const i32* table, const float* sinks, u32* tickets, float* piece_out,
           float2* piece_state) {
    extern __shared__ __align__(1024) u8 raw[];
    Shared& shared = *reinterpret_cast<Shared*>(raw);
    const Arguments a{shape, lengths, q_offsets, table};
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) barrier_init(&shared.full[s], 1), barrier_init(&shared.empty[s], kWarps);
        barrier_init_fence();
        tensor_prefetch_map(&k_map);
        tensor_prefetch_map(&v_map);
    }
    dependency_launch();
    dependency_wait();
    number_blocks(a, shared.starts);
    const Deal deal(shared.starts[shape.batch]);
    const i32 unit = deal.begin(blockIdx.x), end = deal.begin(blockIdx.x + 1);
    if (threadIdx.x >= kConsumerThreads) produce(a, shared, &k_map, &v_map, unit, end);
    else consume(a, shared, q, Result{a, out, sinks}, Pieces{tickets, piece_out, piece_state}, deal, unit, end);
}
