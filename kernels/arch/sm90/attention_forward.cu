//! Attention of many query rows: softmax(Q K^T) V with a running maximum, never storing the scores.
//!
//! One block is a producer warpgroup, three threads of which start bulk copies, and BM / 64 consumer warpgroups with 64
//! query rows each. Blocks are persistent. Work items are (head, tile of BM query rows), the rows with most keys first.
//!
//! Definitions from the unit: SYMBOL, ELEMENT (BF16 or F16), HEAD_QK, HEAD_V, BM, BN, STAGES,
//! SHARED_BYTES (of a block), and
//! MASK: 0 only the end of the keys; 1 causal; 2 whatever the shape says, soft cap included; 3 a mask in memory as well;
//! PING_PONG: 1 when warpgroups start products in turn, so that one's softmax runs beside another's products.

static_assert(BM % 64 == 0 && BM <= 192, "a consumer warpgroup owns 64 rows");
static_assert(BN % 16 == 0 && BN <= 256, "keys are the depth of the second product");
static_assert(HEAD_QK % 16 == 0 && HEAD_V % 32 == 0 && HEAD_QK <= 256 && HEAD_V <= 256, "head sizes");

constexpr int kConsumers = BM / 64;
constexpr int kThreads = 128 * (kConsumers + 1);
constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 40;
constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 232;
// A block gets as many registers as its threads may have at the start; asking for more waits for ever.
static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= 65536 / kThreads / 8 * 8 * (kConsumers + 1),
              "registers of the warpgroups");
constexpr int kQPanels = (HEAD_QK + 63) / 64, kVPanels = (HEAD_V + 63) / 64;
constexpr int kPanelBytes = BN * 128;
constexpr int kQBytes = kQPanels * 64 * 128;
constexpr int kKBytes = kQPanels * kPanelBytes, kVBytes = kVPanels * kPanelBytes;

/// Shared memory. Every tile is a row of panels of 64 columns; a panel row is 128 bytes, swizzled by the copy engine:
///
///     K, stage s:  | panel 0: BN rows x 64 columns | panel 1 | ...      16-byte piece c of row r lies at c ^ (r % 8)
///
/// Example, BN = 128: column 72 of key 9 is panel 1 (16384), row 9 (1152), piece 1 ^ 1 = 0, byte 0: offset 17536.
struct Shared {
    u8 q[kConsumers][kQBytes];
    u8 k[STAGES][kKBytes];
    u8 v[STAGES][kVBytes];
    u64 q_full[kConsumers], q_empty[kConsumers];
    u64 k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    u64 item_full, item_empty;
    i32 item;
};
static_assert(sizeof(Shared) == SHARED_BYTES, "what the planner asks for");

// ---- Producer ----------------------------------------------------------------------------------------------------

/// Copies the key (or value) blocks of an item, last block first, through a ring.
template <int kPanels> DEVICE void load_blocks(const Arguments& a, const Item& item, u8* ring, const TensorMap* map,
                                               u64* full, u64* empty, Cursor& at) {
    const i32 head = item.head / a.shape.group, begin = item.begin * BN, kv_len = item.sequence.kv_len;
    const i32* pages = a.table + (i64)item.batch * a.shape.table_stride;
#pragma unroll 1
    for (i32 row0 = (item.end - 1) * BN; row0 >= begin; row0 -= BN) {
        u8* stage = ring + at.stage * (kPanels * kPanelBytes);
        u64* barrier = full + at.stage;
        barrier_wait(empty + at.stage, at.parity ^ 1);
        at.advance();
        barrier_expect(barrier, kPanels * kPanelBytes);
        if (a.shape.page_rows == 0) {
#pragma unroll
            for (int p = 0; p < kPanels; p++)
                tensor_load(stage + p * kPanelBytes, map, barrier, p * 64, row0, head, item.batch);
            continue;
        }
#pragma unroll 1
        for (i32 r = 0; r < BN; r += a.shape.piece_rows) {
            const i32 row = row0 + r, page = row / a.shape.page_rows;
            const i32 id = row < kv_len ? pages[page] : -1; // a page outside the pool reads zeros
#pragma unroll
            for (int p = 0; p < kPanels; p++)
                tensor_load(stage + p * kPanelBytes + r * 128, map, barrier, p * 64, row - page * a.shape.page_rows,
                            head, id);
        }
    }
}

/// One thread hands out work items and loads keys.
DEVICE void produce_keys(const Arguments& a, Shared& shared, const TensorMap* map, u32* counter) {
    Cursor at;
    i32 index = blockIdx.x;
    for (u32 parity = 0;; parity ^= 1) {
        barrier_wait(&shared.item_empty, parity ^ 1);
        shared.item = index < a.shape.tiles ? index : -1;
        barrier_arrive(&shared.item_full);
        if (index >= a.shape.tiles) return;
        const u32 ticket = counter ? atomicAdd(counter, 1) : index;
        load_blocks<kQPanels>(a, Item::of(a, index), shared.k[0], map, shared.k_full, shared.k_empty, at);
        // The last ticket of the launch leaves the counter as it was found.
        if (counter && ticket == a.shape.tiles - 1) *counter = 0;
        index = gridDim.x + ticket;
    }
}

/// Waits for the next item; false when there is none.
DEVICE bool next_item(Shared& shared, u32& parity, i32& index) {
    barrier_wait(&shared.item_full, parity);
    parity ^= 1;
    index = shared.item;
    if (index < 0) return false;
    barrier_arrive(&shared.item_empty);
    return true;
}

/// Another thread loads values.
DEVICE void produce_values(const Arguments& a, Shared& shared, const TensorMap* map) {
    Cursor at;
    i32 index;
    for (u32 parity = 0; next_item(shared, parity, index);)
        load_blocks<kVPanels>(a, Item::of(a, index), shared.v[0], map, shared.v_full, shared.v_empty, at);
}

/// And a third one queries.
DEVICE void produce_queries(const Arguments& a, Shared& shared, const TensorMap* map) {
    i32 index;
    u32 used = 1;
    for (u32 parity = 0; next_item(shared, parity, index);) {
        const Item item = Item::of(a, index);
        if (item.begin >= item.end) continue;
#pragma unroll 1
        for (int w = 0; w < kConsumers; w++) {
            barrier_wait(&shared.q_empty[w], used);
            barrier_expect(&shared.q_full[w], kQBytes);
#pragma unroll
            for (int p = 0; p < kQPanels; p++)
                tensor_load(shared.q[w] + p * 8192, map, &shared.q_full[w], p * 64,
                            item.sequence.q_start + item.row0 + w * 64, item.head, a.q_offsets ? 0 : item.batch);
        }
        used ^= 1;
    }
}

// ---- Consumer ----------------------------------------------------------------------------------------------------

/// The state of one consumer warpgroup within an item.
struct Consumer {
    const Arguments& a;
    Shared& shared;
    const int group;        // number of this warpgroup
    const i32 thread_row;   // first row of the thread within the item
    float scores[BN / 2], out[HEAD_V / 2];
    u32 weights[BN / 4];
    RowState rows;
    const Masking masking;
    MaskTile mask;
    Cursor k, v;

    DEVICE Consumer(const Arguments& a_, Shared& shared_, const Masking& masking_, int group_)
        : a(a_), shared(shared_), group(group_),
          thread_row(group_ * 64 + (threadIdx.x % 128) / 32 * 16 + threadIdx.x % 32 / 4), masking(masking_) {}

    /// Of scores after a mask in memory, times log2 e.
    DEVICE float scale() const { return MASK == 3 ? kLog2E : a.shape.scale_log2; }
    DEVICE bool is_speaker() const { return threadIdx.x % 128 == 0; }

    /// Waits for this warpgroup's turn to start matrix products, and passes the turn on.
    DEVICE void take_turn() {
        if (PING_PONG) named_barrier_at<256>(1 + group);
    }
    DEVICE void pass_turn() {
        if (PING_PONG) named_barrier_arrive_at<256>(1 + (group + 1 == kConsumers ? 0 : group + 1));
    }

    DEVICE void start_scores() {
        const u64 q = wgmma_descriptor(shared.q[group]), key = wgmma_descriptor(shared.k[k.stage]);
        wgmma_fence();
#pragma unroll
        for (int d = 0; d < HEAD_QK / 16; d++)
            Wgmma<BN, ELEMENT>::ss(scores, q + d / 4 * 512 + d % 4 * 2, key + d / 4 * (kPanelBytes / 16) + d % 4 * 2,
                                   d);
        wgmma_commit();
    }
    DEVICE void start_output() {
        const u64 value = wgmma_descriptor_mn(shared.v[v.stage], kPanelBytes);
        wgmma_fence();
#pragma unroll
        for (int n = 0; n < BN / 16; n++) {
            const u32 p[4] = {weights[4 * n], weights[4 * n + 1], weights[4 * n + 2], weights[4 * n + 3]};
            Wgmma<HEAD_V, ELEMENT, 0, 1>::rs(out, p, value + n * 128, 1);
        }
        wgmma_commit();
    }
    DEVICE void pack_weights() {
#pragma unroll
        for (int i = 0; i < BN / 4; i++) weights[i] = pack2<ELEMENT>(scores[2 * i], scores[2 * i + 1]);
    }
    /// Some rows of the warpgroup may not see all keys of a block.
    DEVICE bool is_edge(const Item& item, i32 block) const {
        const i32 row0 = item.row0 + group * 64;
        return (block + 1) * BN > item.sequence.key_end(a.shape, row0) ||
               block * BN < item.sequence.key_begin(a.shape, row0 + 63);
    }
    template <bool kMasked> DEVICE bool score_to_weight(const Item& item, i32 block) {
        if (MASK >= 2 && a.shape.cap_scale != 0.0f) {
#pragma unroll
            for (int i = 0; i < BN / 2; i++) scores[i] = soft_cap(scores[i], a.shape.cap_scale);
        }
        if (MASK == 3) mask.add(masking.shape, scores, a.shape.scale_log2 * (1.0f / kLog2E), block * BN, item.sequence.kv_len);
        if (kMasked && (MASK != 3 || is_edge(item, block))) {
            const i32 column0 = block * BN + threadIdx.x % 4 * 2;
            i32 begin[2], end[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const i32 row = item.row0 + thread_row + 8 * r;
                end[r] = (MASK == 0 ? item.sequence.kv_len : item.sequence.key_end(a.shape, row)) - column0;
                begin[r] = (MASK >= 2 ? item.sequence.key_begin(a.shape, row) : 0) - column0;
            }
            hide(scores, begin, end);
        }
        return softmax<kMasked || MASK == 3>(scores, rows, scale());
    }

    /// Rows of the last value block past the end of the keys hold what the caller's memory held; 0 * NaN is NaN.
    DEVICE void clear_tail(const Item& item) {
        const i32 rows_left = item.sequence.kv_len - (item.end - 1) * BN;
        const bool is_bounded = MASK == 3 ? item.sequence.kv_len == a.shape.kv_len : a.lengths == nullptr;
        if (rows_left >= BN || (is_bounded && a.shape.page_rows == 0)) return;
        barrier_wait(&shared.v_full[v.stage], v.parity);
        for (i32 i = threadIdx.x % 128; i < (BN - rows_left) * 8 * kVPanels; i += 128) {
            const i32 panel = i % kVPanels, piece = i / kVPanels;
            u8* tail = shared.v[v.stage] + panel * kPanelBytes + rows_left * 128;
            reinterpret_cast<uint4*>(tail)[piece] = uint4{0, 0, 0, 0};
        }
        fence_async_shared();
        named_barrier_at<128>(8 + group);
    }

    DEVICE void load_mask(const Item& item, i32 block) {
        if (MASK == 3) mask.load(masking.shape, block * BN, item.sequence.kv_len);
    }

    /// The first block: scores and weights only.
    DEVICE void first_block(const Item& item) {
        load_mask(item, item.end - 1);
        barrier_wait(&shared.k_full[k.stage], k.parity);
        start_scores();
        wgmma_wait<0>();
        wgmma_touch(scores);
        if (is_speaker()) barrier_arrive(&shared.k_empty[k.stage]);
        k.advance();
        score_to_weight<true>(item, item.end - 1);
        pack_weights();
        clear_tail(item);
    }
    /// A further block: its scores and the previous block's output run together, then its softmax beside that output.
    template <bool kMasked> DEVICE void next_block(const Item& item, i32 block) {
        load_mask(item, block);
        barrier_wait(&shared.k_full[k.stage], k.parity);
        take_turn();
        start_scores();
        barrier_wait(&shared.v_full[v.stage], v.parity);
        start_output();
        pass_turn();
        wgmma_wait<1>();
        wgmma_touch(scores);
        if (is_speaker()) barrier_arrive(&shared.k_empty[k.stage]);
        k.advance();
        const bool rescale = score_to_weight<kMasked>(item, block);
        wgmma_wait<0>();
        wgmma_touch(out);
        if (is_speaker()) barrier_arrive(&shared.v_empty[v.stage]);
        v.advance();
        pack_weights();
        if (rescale) {
#pragma unroll
            for (int i = 0; i < HEAD_V / 2; i++) out[i] *= rows.alpha[(i >> 1) & 1];
        }
    }
    DEVICE void last_output() {
        barrier_wait(&shared.v_full[v.stage], v.parity);
        start_output();
        wgmma_wait<0>();
        wgmma_touch(out);
        if (is_speaker()) barrier_arrive(&shared.v_empty[v.stage]);
        v.advance();
    }

    DEVICE void clear() {
#pragma unroll
        for (int i = 0; i < HEAD_V / 2; i++) out[i] = 0.0f;
#pragma unroll
        for (int r = 0; r < 2; r++) rows.max[r] = kMinusInfinity, rows.sum[r] = 0.0f;
    }

    /// All blocks of an item; the queries are free again when the last scores are there.
    DEVICE void blocks(const Item& item, u32 q_parity) {
        const i32 row0 = item.row0 + group * 64;
        // Blocks below `plain` end before the first row's last key; blocks from `windowed` begin inside every window.
        const i32 seen = MASK == 0 ? item.sequence.kv_len : item.sequence.key_end(a.shape, row0);
        const i32 plain = max(item.begin, max(seen, 0) / BN);
        const i32 windowed = MASK >= 2 ? ceil_div(item.sequence.key_begin(a.shape, row0 + 63), BN) : 0;
        if (MASK == 3) mask.start(masking, item.batch, item.head, item.row0 + thread_row, item.sequence.q_len - 1);
        barrier_wait(&shared.q_full[group], q_parity);
        first_block(item);
        i32 block = item.end - 2;
        // A mask in memory makes blocks long: one text for all of them.
        for (; block >= (MASK == 3 ? item.begin : plain); block--) next_block<true>(item, block);
        if (MASK != 3)
            for (; block >= max(item.begin, windowed); block--) next_block<false>(item, block);
        if (MASK == 2)
            for (; block >= item.begin; block--) next_block<true>(item, block);
        if (is_speaker()) barrier_arrive(&shared.q_empty[group]);
        last_output();
    }

    /// Divides by the sums and writes the rows that exist. Four lanes exchange pieces so that each writes 16 bytes.
    DEVICE void store(const Item& item, u16* result, const float* sinks) {
        const int lane = threadIdx.x % 4;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = rows.sum[r];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const bool empty = rows.max[r] == kMinusInfinity;
            const float top = empty ? 0.0f : rows.max[r] * scale();
            if (sinks) sum += exp2_approx(sinks[item.head] * kLog2E - top);
            const float inverse = empty || sum == 0.0f ? 0.0f : 1.0f / sum;
            const i32 row = item.row0 + thread_row + 8 * r;
            u16* line = result + (a.q_offsets ? 0 : item.batch * a.shape.out_batch) + item.head * a.shape.out_head +
                        (i64)(item.sequence.q_start + row) * a.shape.out_row;
#pragma unroll
            for (int j = 0; j < HEAD_V / 8; j += 4) {
                u32 part[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int at = 4 * (j + i) + 2 * r;
                    part[i] = pack2<ELEMENT>(out[at] * inverse, out[at + 1] * inverse);
                }
                transpose4(part, lane);
                const int column = (j + lane) * 8;
                if (row < item.sequence.q_len && column < a.shape.head_v)
                    *reinterpret_cast<uint4*>(line + column) = uint4{part[0], part[1], part[2], part[3]};
            }
        }
    }
};

DEVICE void consume(const Arguments& a, Shared& shared, const Masking& masking, int group, u16* result,
                    const float* sinks) {
    Consumer consumer(a, shared, masking, group);
    u32 q_parity = 0;
    i32 index;
    if (group == kConsumers - 1) consumer.pass_turn();
    for (u32 parity = 0; next_item(shared, parity, index);) {
        const Item item = Item::of(a, index);
        consumer.clear();
        if (item.begin < item.end) {
            consumer.blocks(item, q_parity);
            q_parity ^= 1;
        }
        consumer.store(item, result, sinks);
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    SYMBOL(const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
           const __grid_constant__ TensorMap v_map, const __grid_constant__ AttentionShape shape, u16* out,
           const i32* lengths, const i32* q_offsets, const i32* table, const float* sinks, u32* counter,
           const __grid_constant__ MaskShape mask_shape, const u8* mask) {
    extern __shared__ __align__(1024) u8 raw[];
    Shared& shared = *reinterpret_cast<Shared*>(raw);
    const Arguments a{shape, lengths, q_offsets, table};
    const int group = uniform(threadIdx.x / 128);
    if (threadIdx.x == 0) {
        for (int w = 0; w < kConsumers; w++) barrier_init(&shared.q_full[w], 1), barrier_init(&shared.q_empty[w], 1);
        for (int s = 0; s < STAGES; s++) {
            barrier_init(&shared.k_full[s], 1), barrier_init(&shared.v_full[s], 1);
            barrier_init(&shared.k_empty[s], kConsumers), barrier_init(&shared.v_empty[s], kConsumers);
        }
        barrier_init(&shared.item_full, 1), barrier_init(&shared.item_empty, 128 * kConsumers + 2);
        barrier_init_fence();
        tensor_prefetch_map(&q_map);
        tensor_prefetch_map(&k_map);
        tensor_prefetch_map(&v_map);
    }
    __syncthreads();
    dependency_launch();
    dependency_wait();
    if (group == 0) {
        release_registers<kProducerRegisters>();
        if (threadIdx.x == 0) produce_keys(a, shared, &k_map, counter);
        if (threadIdx.x == 32) produce_values(a, shared, &v_map);
        if (threadIdx.x == 64) produce_queries(a, shared, &q_map);
    } else {
        acquire_registers<kConsumerRegisters>();
        consume(a, shared, Masking{mask_shape, mask}, group - 1, out, sinks);
    }
}
