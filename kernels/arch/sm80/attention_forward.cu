//! Attention of many query rows: softmax(Q K^T) V with a running maximum, never storing the scores.
//!
//! A block computes BM query rows of a head. It walks blocks of BN keys, last one first; the next block's
//! keys and values are copied while this one's are read. Items are (head, tile of rows), those with most keys first.
//!
//! Definitions from the unit: SYMBOL, ELEMENT (BF16 or F16), HEAD_QK, HEAD_V, BM, BN, SHARED_BYTES and THREADS (of a
//! block), STAGES (2), CODES (1: the cache holds e4m3 codes), and
//! MASK: 0 only the end of the keys; 1 causal; 2 whatever the shape says, soft cap included; 3 a mask in memory as well.

constexpr int kTiles = BM * 2 / THREADS; // of 16 rows, of a warp
static_assert(BM * 2 % THREADS == 0 && kTiles >= 1, "a warp owns tiles of 16 rows");
static_assert(STAGES == 2, "keys and values");
static_assert(BN % 16 == 0, "keys are the depth of the second product");
static_assert(HEAD_QK % (CODES ? 32 : 16) == 0 && HEAD_V % 32 == 0, "head sizes");

constexpr int kQPanels = (HEAD_QK + 63) / 64; // of queries
constexpr int kPanelBytes = BN * kRowBytes;
constexpr bool kQueryInRegisters = kTiles == 1 && HEAD_QK <= 128;

/// Tiles are rows of panels of 128-byte rows; the 16-byte piece c of row r lies at c ^ (r % 8). Example, HEAD_QK = 128:
/// column 72 of key 9 is panel 1, row 9, piece 1 ^ 1 = 0.
struct Shared {
    u8 q[kQPanels * BM * 128];
    u8 k[STAGES][kKPanels * kPanelBytes];
    u8 v[STAGES][kVPanels * kPanelBytes];
};
static_assert(sizeof(Shared) == SHARED_BYTES, "what the planner asks for");

/// Starts copying the item's query rows; rows and columns that do not exist become zeros.
DEVICE void copy_queries(const Arguments& a, const Item& item, u32 tile, const u16* q) {
    constexpr int kPieces = kQPanels * 8;
    const u16* base = q + (a.q_offsets ? 0 : item.batch * a.shape.q_batch) + item.head * a.shape.q_head +
                      (i64)(item.sequence.q_start + item.row0) * a.shape.q_row;
#pragma unroll
    for (int i = 0; i < BM * kPieces / THREADS; i++) {
        const i32 index = i * THREADS + threadIdx.x, piece = index % kPieces, row = index / kPieces;
        const bool exists = item.row0 + row < item.sequence.q_len && piece * 8 < a.shape.head_qk;
        copy16_part(tile + piece / 8 * (BM * 128) + swizzled<128>(row, piece % 8 * 16),
                    base + (exists ? row * a.shape.q_row + piece * 8 : 0), exists ? 16 : 0);
    }
}

/// Keys in codes come with the even ones of 16 columns first: so must the queries.
DEVICE void part_queries(u8* tile) {
    constexpr int kPairs = kQPanels * 4;
#pragma unroll 1
    for (i32 index = threadIdx.x; index < BM * kPairs; index += THREADS) {
        const i32 pair = index % kPairs, row = index / kPairs;
        u8* panel = tile + pair / 4 * (BM * 128);
        uint4& low = *reinterpret_cast<uint4*>(panel + swizzled<128>(row, pair % 4 * 32));
        uint4& high = *reinterpret_cast<uint4*>(panel + swizzled<128>(row, pair % 4 * 32 + 16));
        const uint4 a = low, b = high;
        low = uint4{permute_bytes(a.x, a.y, 0x5410), permute_bytes(a.z, a.w, 0x5410), permute_bytes(b.x, b.y, 0x5410),
                    permute_bytes(b.z, b.w, 0x5410)};
        high = uint4{permute_bytes(a.x, a.y, 0x7632), permute_bytes(a.z, a.w, 0x7632), permute_bytes(b.x, b.y, 0x7632),
                     permute_bytes(b.z, b.w, 0x7632)};
    }
    __syncthreads();
}

/// A warp within an item. Lane l holds rows l/4 and 8 more of each of the warp's tiles.
struct Warp {
    const Arguments& a;
    Shared& shared;
    const int lane, row; // row: the warp's first one within the item
    float scores[kTiles][BN / 2], out[kTiles][HEAD_V / 2];
    RowState rows[kTiles];
    u32 query[kQueryInRegisters ? HEAD_QK / 16 : 1][4];
    float scale, cap_scale, factor; // factor: of scores before a mask in memory is added
    const Masking masking;
    MaskTile mask[kTiles];

    DEVICE Warp(const Arguments& a_, Shared& shared_, const Masking& masking_, float of_keys)
        : a(a_), shared(shared_), masking(masking_), lane(threadIdx.x % 32), row(threadIdx.x / 32 * 16 * kTiles) {
        cap_scale = a.shape.cap_scale * of_keys;
        scale = a.shape.scale_log2 * (a.shape.cap_scale != 0.0f ? 1.0f : of_keys);
        factor = scale * (1.0f / kLog2E);
        if (MASK == 3) scale = kLog2E;
#pragma unroll
        for (int t = 0; t < kTiles; t++) {
#pragma unroll
            for (int i = 0; i < HEAD_V / 2; i++) out[t][i] = 0.0f;
#pragma unroll
            for (int r = 0; r < 2; r++) rows[t].max[r] = kMinusInfinity, rows[t].sum[r] = 0.0f, rows[t].alpha[r] = 1.0f;
        }
    }

    /// The A fragment of step d.
    DEVICE void load_query(u32 (&part)[4], int t, int d) const {
        const u32 line = row + 16 * t + lane % 16, piece = d % 4 * 2 + lane / 16;
        matrix_load4(part, shared_address(shared.q) + d / 4 * (BM * 128) + swizzled<128>(line, piece * 16));
    }
    DEVICE void keep_query() {
        if (!kQueryInRegisters) return;
#pragma unroll
        for (int d = 0; d < HEAD_QK / 16; d++) load_query(query[kQueryInRegisters ? d : 0], 0, d);
    }
    DEVICE void query_part(u32 (&part)[4], int t, int d) const {
        if (!kQueryInRegisters) return load_query(part, t, d);
#pragma unroll
        for (int i = 0; i < 4; i++) part[i] = query[kQueryInRegisters ? d : 0][i];
    }

    DEVICE void score(u32 tile) {
#pragma unroll
        for (int t = 0; t < kTiles; t++)
#pragma unroll
            for (int i = 0; i < BN / 2; i++) scores[t][i] = 0.0f;
        const u32 line = lane / 16 * 8 + lane % 8, half = lane / 8 % 2 * 16;
#pragma unroll
        for (int d = 0; d < HEAD_QK / (CODES ? 32 : 16); d++) {
            u32 part[kTiles][CODES ? 2 : 1][4];
#pragma unroll
            for (int t = 0; t < kTiles; t++)
#pragma unroll
                for (int h = 0; h < (CODES ? 2 : 1); h++) query_part(part[t][h], t, CODES ? 2 * d + h : d);
#pragma unroll
            for (int n = 0; n < BN / 16; n++) {
                u32 key[4];
                matrix_load4(key, tile + d / kRowSteps * kPanelBytes + swizzled<kRowBytes>(n * 16 + line, d % kRowSteps * 32 + half));
                if (CODES) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        u32 even, odd;
                        widen4<ELEMENT>(key[i], even, odd);
#pragma unroll
                        for (int t = 0; t < kTiles; t++)
                            warp_mma<ELEMENT>(four(scores[t], 2 * n + i / 2), part[t][CODES ? i % 2 : 0], even, odd);
                    }
                    continue;
                }
#pragma unroll
                for (int t = 0; t < kTiles; t++) {
                    warp_mma<ELEMENT>(four(scores[t], 2 * n), part[t][0], key[0], key[1]);
                    warp_mma<ELEMENT>(four(scores[t], 2 * n + 1), part[t][0], key[2], key[3]);
                }
            }
        }
    }
    template <int kCount> static DEVICE float (&four(float (&all)[kCount], int index))[4] {
        return *reinterpret_cast<float(*)[4]>(&all[4 * index]);
    }

    DEVICE void start_mask(const Item& item) {
        if (MASK != 3) return;
#pragma unroll
        for (int t = 0; t < kTiles; t++)
            mask[t].start(masking, item.batch, item.head, item.row0 + row + 16 * t + lane / 4, item.sequence.q_len - 1);
    }
    DEVICE void load_mask(const Item& item, i32 block) {
        if (MASK != 3) return;
#pragma unroll
        for (int t = 0; t < kTiles; t++) mask[t].load(masking.shape, block * BN, item.sequence.kv_len);
    }

    /// Scores become weights; the outputs follow the maxima. `is_edge`: some rows may not see all keys.
    template <bool kMasked> DEVICE void weigh(const Item& item, i32 block, bool is_edge) {
#pragma unroll
        for (int t = 0; t < kTiles; t++) {
            if (MASK >= 2 && cap_scale != 0.0f) {
#pragma unroll
                for (int i = 0; i < BN / 2; i++) scores[t][i] = soft_cap(scores[t][i], cap_scale);
            }
            if (MASK == 3) mask[t].add(masking.shape, scores[t], factor, block * BN, item.sequence.kv_len);
            if (kMasked && (MASK != 3 || is_edge)) {
                const i32 column0 = block * BN + lane % 4 * 2;
                i32 begin[2], end[2];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const i32 at = item.row0 + row + 16 * t + lane / 4 + 8 * r;
                    end[r] = (MASK == 0 ? item.sequence.kv_len : item.sequence.key_end(a.shape, at)) - column0;
                    begin[r] = (MASK >= 2 ? item.sequence.key_begin(a.shape, at) : 0) - column0;
                }
                hide(scores[t], begin, end);
            }
            if (softmax<kMasked || MASK == 3>(scores[t], rows[t], scale)) {
#pragma unroll
                for (int i = 0; i < HEAD_V / 2; i++) out[t][i] *= rows[t].alpha[(i >> 1) & 1];
            }
        }
    }

    DEVICE void gather(u32 tile) {
        const u32 line = lane / 8 % 2 * 8 + lane % 8, half = lane / 16 * 16;
#pragma unroll
        for (int n = 0; n < BN / 16; n++) {
            u32 weight[kTiles][4];
#pragma unroll
            for (int t = 0; t < kTiles; t++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    weight[t][i] = pack2<ELEMENT>(scores[t][8 * n + 2 * i], scores[t][8 * n + 2 * i + 1]);
#pragma unroll
            for (int d = 0; d < HEAD_V / (CODES ? 32 : 16); d++) {
                u32 value[4];
                matrix_load4_transposed(value, tile + d / kRowSteps * kPanelBytes + swizzled<kRowBytes>(n * 16 + line, d % kRowSteps * 32 + half));
                if (CODES) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        u32 even[2], odd[2];
                        widen4<ELEMENT>(value[2 * i], even[0], odd[0]);
                        widen4<ELEMENT>(value[2 * i + 1], even[1], odd[1]);
#pragma unroll
                        for (int t = 0; t < kTiles; t++) {
                            warp_mma<ELEMENT>(four(out[t], 4 * d + 2 * i), weight[t], even[0], even[1]);
                            warp_mma<ELEMENT>(four(out[t], 4 * d + 2 * i + 1), weight[t], odd[0], odd[1]);
                        }
                    }
                    continue;
                }
#pragma unroll
                for (int t = 0; t < kTiles; t++) {
                    warp_mma<ELEMENT>(four(out[t], 2 * d), weight[t], value[0], value[1]);
                    warp_mma<ELEMENT>(four(out[t], 2 * d + 1), weight[t], value[2], value[3]);
                }
            }
        }
    }

    /// Divides by the sums and writes the rows that exist.
    DEVICE void store(const Item& item, u16* result, const float* sinks, float of_values) const {
#pragma unroll
        for (int t = 0; t < kTiles; t++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float sum = rows[t].sum[r];
                sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                sum += __shfl_xor_sync(0xffffffffu, sum, 2);
                const bool empty = rows[t].max[r] == kMinusInfinity;
                const float top = empty ? 0.0f : rows[t].max[r] * scale;
                if (sinks) sum += exp2_approx(sinks[item.head] * kLog2E - top);
                const float inverse = empty || sum == 0.0f ? 0.0f : of_values / sum;
                const i32 at = item.row0 + row + 16 * t + lane / 4 + 8 * r;
                u16* line = result + (a.q_offsets ? 0 : item.batch * a.shape.out_batch) + item.head * a.shape.out_head +
                            (i64)(item.sequence.q_start + at) * a.shape.out_row;
                write(line, out[t], r, inverse, at < item.sequence.q_len);
            }
        }
    }
    /// Row r of a tile: four lanes exchange pieces so that each writes 16 bytes; of codes each has 8 beside each other.
    DEVICE void write(u16* line, const float (&values)[HEAD_V / 2], int r, float inverse, bool exists) const {
        if (CODES) {
#pragma unroll
            for (int j = 0; j < HEAD_V / 8; j += 2) {
                const int at = 4 * j + 2 * r, column = 8 * j + lane % 4 * 4;
                const u32 low = pack2<ELEMENT>(values[at] * inverse, values[at + 4] * inverse);
                const u32 high = pack2<ELEMENT>(values[at + 1] * inverse, values[at + 5] * inverse);
                if (exists && column < a.shape.head_v) *reinterpret_cast<uint2*>(line + column) = uint2{low, high};
            }
            return;
        }
#pragma unroll
        for (int j = 0; j < HEAD_V / 8; j += 4) {
            u32 part[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = 4 * (j + i) + 2 * r;
                part[i] = pack2<ELEMENT>(values[at] * inverse, values[at + 1] * inverse);
            }
            transpose4(part, lane % 4);
            const int column = (j + lane % 4) * 8;
            if (exists && column < a.shape.head_v)
                *reinterpret_cast<uint4*>(line + column) = uint4{part[0], part[1], part[2], part[3]};
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    SYMBOL(const __grid_constant__ AttentionShape shape, const __grid_constant__ CacheShape cache, const u16* q,
           const u8* k, const u8* v, u16* out, const i32* lengths, const i32* q_offsets, const i32* table,
           const float* sinks, const float* k_scales, const float* v_scales, i32 scale_step,
           const __grid_constant__ MaskShape mask_shape, const u8* mask) {
    extern __shared__ __align__(1024) u8 raw[];
    Shared& shared = *reinterpret_cast<Shared*>(raw);
    const Arguments a{shape, lengths, q_offsets, table};
    dependency_launch();
    dependency_wait();
    const Item item = Item::of(a, blockIdx.x);
    if (item.row0 >= item.sequence.q_len) return;
    const i32 head = item.head / shape.group;
    const CodeScales scales{k_scales, v_scales, scale_step};
    Warp warp(a, shared, Masking{mask_shape, mask}, CODES ? scales.of_keys(head) : 1.0f);
    if (item.begin < item.end) {
        const CacheRows rows(a, cache, k, v, item.batch, head, item.sequence.kv_len);
        copy_queries(a, item, shared_address(shared.q), q);
        i32 block = item.end - 1;
        rows.copy<kKPanels>(shared_address(shared.k[block % 2]), false, block * BN);
        copy_commit();
        rows.copy<kVPanels>(shared_address(shared.v[block % 2]), true, block * BN);
        copy_commit();
        // Blocks below `plain` end before the warp's first row's last key; those from `windowed` begin in every window.
        const i32 row0 = item.row0 + warp.row;
        const i32 seen = MASK == 0 ? item.sequence.kv_len : item.sequence.key_end(shape, row0);
        const i32 plain = max(seen, 0) / BN;
        const i32 windowed = MASK >= 2 ? ceil_div(item.sequence.key_begin(shape, row0 + 16 * kTiles - 1), BN) : 0;
        bool is_first = true;
        warp.start_mask(item);
#pragma unroll 1
        for (; block >= item.begin; block--) {
            const bool has_next = block > item.begin;
            copy_wait<1>();
            __syncthreads();
            if (CODES && is_first) part_queries(shared.q);
            if (is_first) warp.keep_query();
            warp.load_mask(item, block);
            warp.score(shared_address(shared.k[block % 2]));
            // Copies start behind products, which would wait for the addresses otherwise.
            if (has_next) rows.copy<kKPanels>(shared_address(shared.k[(block - 1) % 2]), false, (block - 1) * BN);
            copy_commit();
            const bool is_edge = is_first || block >= plain || block < windowed;
            // A mask in memory makes blocks long: one text for all of them.
            if (MASK == 3 || is_edge) warp.weigh<true>(item, block, is_edge);
            else warp.weigh<false>(item, block, is_edge);
            copy_wait<1>();
            __syncthreads();
            warp.gather(shared_address(shared.v[block % 2]));
            if (has_next) rows.copy<kVPanels>(shared_address(shared.v[(block - 1) % 2]), true, (block - 1) * BN);
            copy_commit();
            is_first = false;
        }
    }
    warp.store(item, out, sinks, CODES ? scales.of_values(head) : 1.0f);
}
