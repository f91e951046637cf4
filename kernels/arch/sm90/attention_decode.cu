//! Attention of a few query rows over a long cache: every key and value is read once, at the speed of memory.
//!
//! The query heads that share a key/value head are folded into the rows of one product. Narrow heads that lie beside each
//! other are read in pairs, so that memory sees longer runs. One block is 4 or 8 consumer
//! warps and a producer warp that starts bulk copies. Blocks of BN keys are dealt out evenly, so that a run may begin
//! and end inside an item; items cut in pieces are merged by the block that finishes last.
//!
//! Definitions from the unit: SYMBOL, ELEMENT (BF16 or F16), HEAD_QK, HEAD_V, ROWS (16 or 32), HEADS (1 or 2),
//! STAGES, SHARED_BYTES (of a block), RESIDENT (blocks of a compute unit), CODES (1: the cache holds e4m3 codes).

constexpr int kThreads = kConsumerThreads + 32;
/// A block's mask is asked for behind the products of the one before, where registers are left to keep it.
constexpr bool kMaskAhead = ROWS == 16 || HEAD_V <= 64;

/// A stage is BN keys and their values in panels of 64 columns (128 codes), rows of 128 bytes, swizzled by the copy engine.
/// Example: key 100 is row 36 of the second block; its columns 8 to 15 are 16-byte piece 1 ^ (36 % 8) = 5.
struct Shared {
    u8 k[STAGES][HEADS * kKBytes];
    u8 v[STAGES][HEADS * kVBytes];
    float out[ROWS][HEAD_V];
    float max[kSlices][ROWS], sum[kSlices][ROWS];
    uint4 query[kQueryFragments][32];
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
            if (lane == 0) barrier_expect(&shared.full[stage], HEADS * (kKBytes + kVBytes));
            __syncwarp();
            if (lane < pieces) {
                const i32 row = row0 + (i * pieces + lane) * rows, y = page_rows ? row % page_rows : row;
#pragma unroll
                for (int p = 0; p < HEADS * kKPanels; p++)
                    tensor_load(shared.k[stage] + p * kPanelBytes + lane * rows * kRowBytes, k_map, &shared.full[stage],
                                p % kKPanels * kPanelColumns, y, piece.head + p / kKPanels, id, kCacheEvictFirst);
#pragma unroll
                for (int p = 0; p < HEADS * kVPanels; p++)
                    tensor_load(shared.v[stage] + p * kPanelBytes + lane * rows * kRowBytes, v_map, &shared.full[stage],
                                p % kVPanels * kPanelColumns, y, piece.head + p / kVPanels, id, kCacheEvictFirst);
            }
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        unit += piece.count;
    }
}

/// The warps that compute: blocks come through the ring.
struct Consumer : RowTile<Shared> {
    u32 parity = 0;

    DEVICE Consumer(const Arguments& a_, const Masking& masking_, Shared& shared_)
        : RowTile<Shared>(a_, masking_, shared_) {}

    /// Value rows past the end of the keys hold what the caller's memory held; 0 * NaN is NaN.
    DEVICE void clear_tail(i32 first_key, i32 kv_len) {
        for (i32 i = lane; i < 16 * 8 * kVPanels; i += 32) {
            const i32 row = i / 8 % 16, panel = i / 128;
            if (first_key + row >= kv_len)
                *reinterpret_cast<uint4*>(shared.v[stage] + head * kVBytes + panel * kPanelBytes + (slice * 16 + row) * kRowBytes +
                                          i % 8 * 16) = uint4{0, 0, 0, 0};
        }
        fence_async_shared();
        __syncwarp();
    }

    DEVICE void blocks(const Piece& piece, const Sequence& sequence) {
        i32 key = (Span(a, sequence).begin + piece.first) * BN + slice * 16;
        const i32 plain_begin = sequence.key_begin(a.shape, sequence.q_len - 1);
        const i32 plain_end = sequence.key_end(a.shape, 0);
        if (kMaskAhead) load_mask(key + lane % 4 * 2);
#pragma unroll 1
        for (i32 i = 0; i < piece.count; i++, key += BN) {
            if (!kMaskAhead) load_mask(key + lane % 4 * 2);
            barrier_wait(&shared.full[stage], parity);
            if (!CODES && key + 16 > sequence.kv_len) clear_tail(key, sequence.kv_len);
            float s[2][4];
            score(s);
            if (key >= plain_begin && key + 16 <= plain_end) weigh<false>(s, key + lane % 4 * 2);
            else weigh<true>(s, key + lane % 4 * 2);
            if (kMaskAhead) load_mask(key + BN + lane % 4 * 2);
            gather(s);
            __syncwarp();
            if (lane == 0) barrier_arrive(&shared.empty[stage]);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
    }
};

extern "C" __global__ void __launch_bounds__(kThreads, RESIDENT)
    SYMBOL(const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map,
           const __grid_constant__ AttentionShape shape, const u16* q, u16* out, const i32* lengths,
           const i32* q_offsets, const i32* table, const float* sinks, u32* tickets, float* piece_out,
           float2* piece_state, const float* k_scales, const float* v_scales, i32 scale_step,
           const __grid_constant__ MaskShape mask_shape, const u8* mask) {
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
    else {
        Consumer consumer(a, Masking{mask_shape, mask}, shared);
        consume(a, shared, consumer, q, Result{a, out, sinks, CodeScales{k_scales, v_scales, scale_step}},
                Pieces{tickets, piece_out, piece_state}, deal, unit, end);
    }
}
