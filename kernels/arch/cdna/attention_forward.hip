//! Attention of many query rows: softmax(Q K^T) V with a running maximum, never storing the scores.
//!
//! One workgroup computes 32 WAVES query rows of a head; each wave owns 32 of them and walks over all keys. Scores are
//! computed transposed, S^T = K Q^T, so that a query row is a column: its scores lie in two lanes, its maximum and sum
//! are one value a lane, and the weights are already an operand of O^T = V^T P^T:
//!
//!     lane l holds of query row l % 32 the keys (and output columns) 8 (r / 4) + 4 (l / 32) + r % 4, r = 0 .. 15
//!
//! With 8 waves there are two on each SIMD, a phase apart: while one multiplies, the other computes weights.
//!
//!     phase         2i             2i + 1            2i + 2            2i + 3
//!     waves 0-3     products i     weights i         products i + 1    weights i + 1
//!     waves 4-7     weights i - 1  products i        weights i         products i + 1
//!     copies        start K i + 1, V i     end       start K i + 2, V i + 1     end
//!
//! Products i are the output of block i - 1 and the scores of block i. A barrier ends each phase.
//!
//! Definitions from the unit: SYMBOL, ELEMENT (BF16, F16 or F32), CODES, HEAD_QK, HEAD_V, BN (keys of a block), WAVES (4 or
//! 8), MASK (1: a mask in memory), SHARED_BYTES (LDS of a workgroup).

static_assert(WAVES == 4 || WAVES == 8, "one or two waves a SIMD");
static_assert(BN % 32 == 0 && HEAD_QK % 32 == 0 && HEAD_V % 32 == 0, "tiles of the matrix product");

constexpr u32 kThreads = 64 * WAVES, BM = 32 * WAVES;
constexpr u32 kTurns = WAVES / 4;
constexpr u32 kKeyTiles = BN / 32, kColumnTiles = HEAD_V / 32;
constexpr u32 kScoreSteps = HEAD_QK / (2 * kPieceElems), kOutputSteps = BN / (2 * kPieceElems);
typedef Mma<ELEMENT, 32> Product;
typedef Product::Acc Sums;

static_assert(2 * (kKeyBytes + kValueBytes) == SHARED_BYTES, "what the planner reckons with");
__shared__ __attribute__((aligned(1024))) u8 lds[SHARED_BYTES];

DEVICE Lds key_tile(i32 block) { return (Lds)lds + (block & 1) * kKeyBytes; }
DEVICE Lds value_tile(i32 block) { return (Lds)lds + 2 * kKeyBytes + (block & 1) * kValueBytes; }

/// BM query rows of a head, and the blocks of BN keys [begin, end) that some of them see.
struct Item {
    i32 batch, head, row0, begin, end;
    Sequence sequence;

    DEVICE Item(const Arguments& a, i32 batch_, i32 head_, i32 row0_)
        : batch(batch_), head(head_), row0(row0_), sequence(a.shape, batch_, a.lengths, a.q_offsets) {
        const i32 rows = min((i32)BM, sequence.q_len - row0);
        begin = rows > 0 ? sequence.key_begin(a.shape, row0) / (i32)BN : 0;
        end = rows > 0 ? ceil_div(max(sequence.key_end(a.shape, row0 + rows - 1), 0), (i32)BN) : 0;
    }
    /// Workgroups are dealt to `dies` in turn: each die takes neighbouring items, which share keys. Of a section of
    /// heads the rows with most keys come first.
    static DEVICE Item of(const Arguments& a, u32 group, u32 dies) {
        const u32 die = group % dies, each = a.shape.tiles / dies, extra = a.shape.tiles % dies;
        const i32 index = die * each + min(die, extra) + group / dies;
        const i32 heads = a.shape.batch * a.shape.heads;
        const i32 section = index / (a.shape.section * a.shape.row_tiles);
        const i32 within = index - section * a.shape.section * a.shape.row_tiles;
        const i32 section_heads = min(a.shape.section, heads - section * a.shape.section);
        const i32 tile = within / section_heads;
        const i32 head = section * a.shape.section + within - tile * section_heads;
        return Item(a, head / a.shape.heads, head % a.shape.heads, (a.shape.row_tiles - 1 - tile) * (i32)BM);
    }
};

/// A wave's 32 query rows; every value belongs to row l % 32.
struct Wave {
    const AttentionShape& shape;
    const KeyReader keys;
    u32x4 query[kScoreSteps];
    Sums scores[kKeyTiles], out[kColumnTiles];
    u32x4 weights[kOutputSteps];
    float top = kMinusInfinity, sum = 0.0f;
    i32 row;                         // of the lane
    i32 key_begin, key_end;          // that the lane's row sees
    i32 plain_begin, plain_end;      // blocks that every row of the wave sees whole
    const Masking masking;
    const u8* mask;                  // of the lane's row
    const i32 mask_end;              // keys of the sequence
    const float key_scale;

    DEVICE Wave(const Arguments& a, const Item& item, const u8* q, const Masking& masking_, const CodeScales& scales)
        : shape(a.shape), masking(masking_), mask_end(item.sequence.kv_len),
          key_scale(scales.of_keys(item.head / a.shape.group, a.shape.head_qk)) {
        const i32 first = item.row0 + wave_id() * 32, last = min(first + 32, item.sequence.q_len) - 1;
        row = first + lane_id() % 32;
        if (MASK) mask = masking.line(item.batch, item.head, min(row, item.sequence.q_len - 1));
        key_begin = item.sequence.key_begin(shape, row), key_end = item.sequence.key_end(shape, row);
        plain_begin = ceil_div(item.sequence.key_begin(shape, first + 31), (i32)BN);
        plain_end = max(item.sequence.key_end(shape, first), 0) / (i32)BN;
        const u32 bytes = shape.head_qk * kElementBytes;
        const i64 batch = a.q_offsets ? 0 : item.batch * shape.q_batch;
        const i64 at = batch + (item.sequence.q_start + row) * shape.q_row + item.head * shape.q_head;
        const u8* line = q + at * kElementBytes + lane_id() / 32 * 16;
#pragma unroll
        for (u32 s = 0; s < kScoreSteps; s++) {
            const bool exists = row <= last && s * 32 + lane_id() / 32 * 16 < bytes;
            query[s] = exists ? *(const GLOBAL u32x4*)(line + s * 32) : u32x4{0, 0, 0, 0};
            if (exists && scales.has_columns()) {
                const float* columns = scales.key_columns(item.head / shape.group, shape.head_qk);
                query[s] = scaled_query<ELEMENT>(query[s], columns + s * 16 + lane_id() / 32 * 8, kCodeUnit / key_scale);
            }
        }
#pragma unroll
        for (u32 t = 0; t < kColumnTiles; t++) out[t] = Sums(0.0f);
    }
    /// The output of the block before and the scores of this one.
    template <bool kOutput, bool kScores> DEVICE void multiply(i32 block) {
        priority<1>();
        if (kOutput) {
            const Lds tile = value_tile(block - 1);
#pragma unroll
            for (u32 s = 0; s < kOutputSteps; s++)
#pragma unroll
                for (u32 t = 0; t < kColumnTiles; t++) {
                    const u32x4 value = ValueReader<32>::read(tile, t, s);
                    Product::run(out[t], &value, &weights[s]);
                }
        }
        if (kScores) {
            const Lds tile = key_tile(block);
#pragma unroll
            for (u32 t = 0; t < kKeyTiles; t++) scores[t] = Sums(0.0f);
#pragma unroll
            for (u32 s = 0; s < kScoreSteps; s++)
#pragma unroll
                for (u32 t = 0; t < kKeyTiles; t++) {
                    const u32x4 key = keys.read(tile, t, s);
                    Product::run(scores[t], &key, &query[s]);
                }
        }
        // Operands are read a few products ahead.
        interleave<kGroupLdsRead, kReadsAhead>();
        constexpr u32 kOutputs = kOutput ? kOutputSteps * kColumnTiles : 0;
        constexpr u32 kScored = kScores ? kScoreSteps * kKeyTiles : 0;
#pragma unroll
        for (u32 i = 0; i < kOutputs + kScored; i++) {
            interleave<kGroupMma, kProductsAPiece>();
            if (i < kOutputs) interleave<kGroupLdsRead, kReadsAValue>();
            else interleave<kGroupLdsRead, 1>();
        }
        priority<0>();
    }

    DEVICE void cap() {
#pragma unroll
        for (u32 i = 0; i < BN / 2; i++)
            scores[i / 16][i % 16] = soft_cap(scores[i / 16][i % 16], CODES ? shape.cap_scale * key_scale : shape.cap_scale);
    }
    /// Of scores after soft caps and a mask in memory, times log2 e.
    DEVICE float scale() const {
        return MASK ? kLog2E : CODES && shape.cap_scale == 0.0f ? shape.scale_log2 * key_scale : shape.scale_log2;
    }
    DEVICE void add_mask(i32 block) {
        const bool is_whole = masking.shape.is_aligned && (block + 1) * (i32)BN <= mask_end;
        const i32 key0 = block * (i32)BN + lane_id() / 32 * 4;
        const float factor = shape.scale_log2 * (1.0f / kLog2E);
#pragma unroll
        for (u32 i = 0; i < BN / 2; i += 4) {
            const i32 key = key0 + (i32)(i * 2), kind = masking.shape.kind;
            const f32x4 four = is_whole ? Masking::whole(kind, mask, key) : Masking::each(kind, mask, key, mask_end);
#pragma unroll
            for (u32 r = 0; r < 4; r++) scores[i / 16][i % 16 + r] = scores[i / 16][i % 16 + r] * factor + four[r];
        }
    }
    DEVICE void hide(i32 block) {
        const i32 key0 = block * (i32)BN + lane_id() / 32 * 4;
        const i32 first = key_begin - key0, last = key_end - key0;
#pragma unroll
        for (u32 i = 0; i < BN / 2; i++) {
            const i32 key = i / 4 * 8 + i % 4;
            scores[i / 16][i % 16] = key >= last || key < first ? kMinusInfinity : scores[i / 16][i % 16];
        }
    }
    /// Scores become weights; the output follows the maximum where that grows too far.
    DEVICE void weigh(i32 block) {
        if (shape.cap_scale != 0.0f) cap();
        if (MASK) add_mask(block);
        if (block < plain_begin || block >= plain_end) hide(block);
        float next = top;
#pragma unroll
        for (u32 i = 0; i < BN / 2; i += 2)
            next = max3(next, scores[i / 16][i % 16], scores[i / 16][i % 16 + 1]);
        next = maximum(next, other_half(next));
        const float scale = this->scale();
        if (any_lane((next - top) * scale > kLazyGrowth)) {
            const float alpha = exp2_approx((top - (next == kMinusInfinity ? 0.0f : next)) * scale);
            top = next;
            sum *= alpha;
#pragma unroll
            for (u32 t = 0; t < kColumnTiles; t++) out[t] *= alpha;
        }
        const float floor = top == kMinusInfinity ? 0.0f : top, base = floor * scale;
        f32x2 total = {0.0f, 0.0f};
#pragma unroll
        for (u32 i = 0; i < BN / 2; i += 2) {
            const f32x2 pair = {scores[i / 16][i % 16], scores[i / 16][i % 16 + 1]};
            // The lowest numbers times the scale would be infinite.
            const f32x2 power = MASK ? (pair - floor) * scale : pair * scale - base;
            const f32x2 weight = {exp2_approx(power.x), exp2_approx(power.y)};
            total += weight;
            if (kElementBytes == 2) weights[i / 8][i % 8 / 2] = pack_weights<ELEMENT>(weight);
            else weights[i / 4][i % 4] = __float_as_uint(weight.x), weights[i / 4][i % 4 + 1] = __float_as_uint(weight.y);
        }
        sum += total.x + total.y;
    }

    /// Results of the tile that begins with column `first` of the lane, times the columns' scales.
    DEVICE void scale_columns(Sums& o, u32 first, const float* scales) const {
#pragma unroll
        for (u32 r = 0; r < 16; r++) {
            const u32 column = first + r / 4 * 8 + r % 4;
            if (column < (u32)shape.head_v) o[r] *= ((const GLOBAL float*)scales)[column];
        }
    }

    /// Divides by the sums and writes the rows that exist; two lanes exchange pieces so that each writes 16 bytes.
    DEVICE void store(const Arguments& a, const Item& item, u8* result, const float* sinks, const CodeScales& scales) {
        float total = sum + other_half(sum);
        const bool is_empty = top == kMinusInfinity;
        if (sinks) total += exp2_approx(sinks[item.head] * kLog2E - (is_empty ? 0.0f : top * scale()));
        const float inverse = is_empty || total == 0.0f ? 0.0f : scales.of_values(item.head / shape.group) / total;
        const bool exists = row < item.sequence.q_len;
        u8* line = result + ((a.q_offsets ? 0 : item.batch * shape.out_batch) + item.head * shape.out_head +
                             (item.sequence.q_start + row) * shape.out_row) * kElementBytes;
        const u32 half = lane_id() / 32, bytes = shape.head_v * kElementBytes;
#pragma unroll
        for (u32 t = 0; t < kColumnTiles; t++) {
            Sums o = out[t] * inverse;
            if (scales.has_columns())
                scale_columns(o, t * 32 + half * 4, scales.value_columns(item.head / shape.group, shape.head_v));
            if (kElementBytes == 4) {
#pragma unroll
                for (u32 g = 0; g < 4; g++) {
                    const u32 column = (32 * t + 8 * g + 4 * half) * 4;
                    if (exists && column < bytes)
                        *(GLOBAL f32x4*)(line + column) = f32x4{o[4 * g], o[4 * g + 1], o[4 * g + 2], o[4 * g + 3]};
                }
                continue;
            }
#pragma unroll
            for (u32 g = 0; g < 4; g += 2) {
                u32 low[2], high[2];
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    low[i] = pack_halves<ELEMENT>(o[4 * g + 2 * i], o[4 * g + 2 * i + 1]);
                    high[i] = pack_halves<ELEMENT>(o[4 * g + 2 * i + 4], o[4 * g + 2 * i + 5]);
                    swap_halves(low[i], high[i]);
                }
                const u32 column = (32 * t + 8 * g + 8 * half) * 2;
                if (exists && column < bytes) *(GLOBAL u32x4*)(line + column) = u32x4{low[0], low[1], high[0], high[1]};
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    SYMBOL(const AttentionShape shape, const CacheShape cache, const u8* q, const u8* k, const u8* v, u8* out,
           const i32* lengths, const i32* q_offsets, const i32* table, const float* sinks, u32 dies,
           const MaskShape mask_shape, const u8* mask, const float* k_scales, const float* v_scales, u32 scale_kind) {
    const Arguments a{shape, lengths, q_offsets, table};
    const Item item = Item::of(a, blockIdx.x, dies);
    if (item.row0 >= item.sequence.q_len) return;
    const i32 kv_head = item.head / shape.group;
    const CodeScales scales{k_scales, v_scales, scale_kind};
    Wave wave(a, item, q, Masking{mask_shape, mask}, scales);
    const Pages pages(a, cache, item.batch, item.sequence.kv_len);
    KeyCopy<WAVES> key_copy(Rows::keys(cache, k, kv_head, shape.head_qk));
    ValueCopy<WAVES> value_copy(Rows::values(cache, v, kv_head, shape.head_v));
    // The keys of block i + 1 and the values of block i.
    const auto start = [&](i32 i) __attribute__((always_inline)) {
        if (i + 1 < item.end) key_copy.start(key_tile(i + 1), pages, (i + 1) * (i32)BN);
        if (i < item.end) value_copy.start(value_tile(i), pages, i * (i32)BN);
    };
    const auto finish = [&](i32 i) __attribute__((always_inline)) {
        if (i + 1 < item.end) key_copy.finish(key_tile(i + 1));
        if (i < item.end) value_copy.finish(value_tile(i));
        finish_copies();
    };
    if (item.begin < item.end) {
        const bool is_late = kTurns == 2 && wave_id() >= 4;
        key_copy.start(key_tile(item.begin), pages, item.begin * (i32)BN);
        key_copy.finish(key_tile(item.begin));
        finish_copies();
        wave_barrier();
        if (is_late) {
            start(item.begin);
            wave_barrier();
        }
        if (!is_late) start(item.begin);
        wave.multiply<false, true>(item.begin);
        if (is_late) finish(item.begin);
        const auto weigh = [&](i32 i) __attribute__((always_inline)) {
            if (kTurns == 2) wave_barrier();
            if (is_late) start(i + 1);
            wave.weigh(i);
            if (!is_late) finish(i);
            wave_barrier();
        };
        const i32 last = item.end - 1;
        for (i32 i = item.begin; i < last; i++) {
            weigh(i);
            if (!is_late) start(i + 1);
            wave.multiply<true, true>(i + 1);
            if (is_late) finish(i + 1);
        }
        weigh(last);
        wave.multiply<true, false>(item.end);
        if (kTurns == 2 && !is_late) wave_barrier();
    }
    wave.store(a, item, out, sinks, scales);
}
