//! Attention of a few query rows over a long cache: every key and value is read once, at the speed of memory.
//!
//! The query heads that share a key/value head are folded into the rows of one product. All warps copy blocks of BN keys
//! into a ring, some ahead of the products. Blocks are dealt out evenly, so that a run may begin and end inside an item;
//! items cut in pieces are merged by the thread block that finishes last.
//!
//! Definitions from the unit: SYMBOL, ELEMENT (BF16 or F16), HEAD_QK, HEAD_V, ROWS (16 or 32), STAGES,
//! SHARED_BYTES and THREADS (of a block), CODES (1: the cache holds e4m3 codes).

static_assert(THREADS == kConsumerThreads, "every warp computes");
static_assert(STAGES >= 2, "a block is copied while another is read");

/// A stage is BN keys and their values in panels, as the row tiles read them.
struct Shared {
    u8 k[STAGES][kKBytes];
    u8 v[STAGES][kVBytes];
    float out[ROWS][HEAD_V];
    float max[kSlices][ROWS], sum[kSlices][ROWS];
    uint4 query[kQueryFragments][32];
    i32 starts[kMaxBatch + 1]; // number of the first key block of each sequence, over all its items
    u32 is_last;
};
static_assert(sizeof(Shared) == SHARED_BYTES, "what the planner asks for");

/// Copies the blocks of a run, one after the other, whatever items they belong to.
struct Feeder {
    const Arguments& a;
    Shared& shared;
    const CacheShape& cache;
    const u8 *k, *v;
    i32 unit, end, left, row0;
    u32 stage;
    CacheRows rows;

    DEVICE Feeder(const Arguments& a_, Shared& shared_, const CacheShape& cache_, const u8* k_, const u8* v_, i32 unit_,
                  i32 end_)
        : a(a_), shared(shared_), cache(cache_), k(k_), v(v_), unit(unit_), end(end_), left(0), row0(0), stage(0) {}

    DEVICE void next() {
        if (unit < end) {
            if (left == 0) {
                const Piece piece(a, shared.starts, unit, end);
                const Sequence sequence(a.shape, piece.batch, a.lengths, a.q_offsets);
                rows = CacheRows(a, cache, k, v, piece.batch, piece.head, sequence.kv_len);
                row0 = (Span(a, sequence).begin + piece.first) * BN;
                left = piece.count;
            }
            rows.copy<kKPanels>(shared_address(shared.k[stage]), false, row0);
            rows.copy<kVPanels>(shared_address(shared.v[stage]), true, row0);
            row0 += BN, left--, unit++;
            if (++stage == STAGES) stage = 0;
        }
        copy_commit();
    }
};

struct Consumer : RowTile<Shared> {
    Feeder& feeder;

    DEVICE Consumer(const Arguments& a_, const Masking& masking_, Shared& shared_, Feeder& feeder_)
        : RowTile<Shared>(a_, masking_, shared_), feeder(feeder_) {}

    DEVICE void blocks(const Piece& piece, const Sequence& sequence) {
        i32 key = (Span(a, sequence).begin + piece.first) * BN + slice * 16;
        const i32 plain_begin = sequence.key_begin(a.shape, sequence.q_len - 1);
        const i32 plain_end = sequence.key_end(a.shape, 0);
        load_mask(key + lane % 4 * 2);
#pragma unroll 1
        for (i32 i = 0; i < piece.count; i++, key += BN) {
            copy_wait<STAGES - 2>();
            __syncthreads();
            feeder.next();
            float s[2][4];
            score(s);
            if (key >= plain_begin && key + 16 <= plain_end) weigh<false>(s, key + lane % 4 * 2);
            else weigh<true>(s, key + lane % 4 * 2);
            load_mask(key + BN + lane % 4 * 2);
            gather(s);
            if (++stage == STAGES) stage = 0;
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    SYMBOL(const __grid_constant__ AttentionShape shape, const __grid_constant__ CacheShape cache, const u16* q,
           const u8* k, const u8* v, u16* out, const i32* lengths, const i32* q_offsets, const i32* table,
           const float* sinks, u32* tickets, float* piece_out, float2* piece_state, const float* k_scales,
           const float* v_scales, i32 scale_step, const __grid_constant__ MaskShape mask_shape, const u8* mask) {
    extern __shared__ __align__(1024) u8 raw[];
    Shared& shared = *reinterpret_cast<Shared*>(raw);
    const Arguments a{shape, lengths, q_offsets, table};
    dependency_launch();
    dependency_wait();
    number_blocks(a, shared.starts);
    const Deal deal(shared.starts[shape.batch]);
    const i32 unit = deal.begin(blockIdx.x), end = deal.begin(blockIdx.x + 1);
    Feeder feeder(a, shared, cache, k, v, unit, end);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) feeder.next();
    Consumer consumer(a, Masking{mask_shape, mask}, shared, feeder);
    consume(a, shared, consumer, q, Result{a, out, sinks, CodeScales{k_scales, v_scales, scale_step}},
            Pieces{tickets, piece_out, piece_state}, deal, unit, end);
}
