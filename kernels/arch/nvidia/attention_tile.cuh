//! Attention of a few query rows: what a warp does with a block of keys and values in shared memory, in whichever way it
//! came there, and how a thread block finishes the items of its run.
//!
//! The block is BN keys in panels of 128-byte rows (64 where a head's codes are no more),
//! swizzled: the 16-byte piece c of row r lies at c ^ (r % 8) (c ^ (r / 2 % 4)). Warp w
//! works on query rows 16 (w / 4) and following, and on one slice of the keys, with maxima and sums of its own:
//!
//!     row of a panel     0 .. 15 | 16 .. 31 | 32 .. 47 | 48 .. 63
//!     warp                0, 4   |   1, 5   |   2, 6   |   3, 7
//!
//! Definitions from the unit: ELEMENT, HEAD_QK, HEAD_V, ROWS, HEADS (key/value heads of a block, the row tiles of 16 dealt out
//! to them in order), CODES. The memory has k and v [STAGES], out, max, sum, query
//! and is_last.

static_assert(ROWS == 16 || ROWS == 32, "row tiles of the warp product");
static_assert(HEAD_QK % (CODES ? 32 : 16) == 0 && HEAD_V % 32 == 0, "head sizes");

constexpr int kPanelBytes = BN * kRowBytes;
constexpr int kKBytes = kKPanels * kPanelBytes, kVBytes = kVPanels * kPanelBytes; // of one head
constexpr bool kQueryInShared = HEAD_QK > 128; // registers hold the outputs of such heads and no more

/// Queries as fragments of the row tiles, where they are in shared memory.
constexpr int kQueryFragments = kQueryInShared ? ROWS / 16 * HEAD_QK / 16 : 1;

/// A warp's part of a tile of rows. Lane l holds rows l/4 and 8 more of the warp's row tile, columns 8j + 2(l%4) + {0, 1}.
template <class Memory> struct RowTile {
    const Arguments& a;
    Memory& shared;
    const int warp, lane, slice, tile_row; // tile_row: the thread's first row
    const int head; // number of the warp's key/value head within the piece
    u32 query[kQueryInShared ? 1 : HEAD_QK / 16][4];
    float out[HEAD_V / 8][4];
    float max[2], sum[2];
    i32 begin[2], end[2];
    float scale, cap_scale; // of the head's scores
    const Masking masking;
    u32 mask_place[2]; // of the thread's rows
    float added[2][4], factor; // scores become factor * score + added where there is a mask
    u32 stage = 0;

    DEVICE RowTile(const Arguments& a_, const Masking& masking_, Memory& shared_)
        : a(a_), shared(shared_), warp(threadIdx.x / 32), lane(threadIdx.x % 32), slice(threadIdx.x / 32 % kSlices),
          tile_row(threadIdx.x / 32 / kSlices * 16 + threadIdx.x % 32 / 4),
          head(head_of(threadIdx.x / 32 / kSlices * 16)), masking(masking_) {}

    DEVICE bool has_mask() const { return !CODES && masking.memory; }

    DEVICE void start(const Piece& piece, const Sequence& sequence, const u16* q, const CodeScales& scales) {
        const i32 kv_head = piece.head + head;
        const float of_keys = CODES ? scales.of_keys(kv_head) : 1.0f;
        cap_scale = a.shape.cap_scale * of_keys;
        scale = a.shape.scale_log2 * (a.shape.cap_scale != 0.0f ? 1.0f : of_keys);
        if (has_mask()) factor = scale * (1.0f / kLog2E), scale = kLog2E;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const i32 packed = piece.row0 + row_of(tile_row) + 8 * r;
            const i32 row = packed / a.shape.group, q_head = kv_head * a.shape.group + packed % a.shape.group;
            const bool exists = row < sequence.q_len;
            end[r] = exists ? sequence.key_end(a.shape, row) : 0;
            begin[r] = sequence.key_begin(a.shape, row);
            max[r] = kMinusInfinity, sum[r] = 0.0f;
            mask_place[r] = (u32)masking.place(piece.batch, q_head, row);
            const u16* line = q + (a.q_offsets ? 0 : piece.batch * a.shape.q_batch) +
                              (sequence.q_start + row) * a.shape.q_row + q_head * a.shape.q_head;
#pragma unroll
            for (int d = 0; d < HEAD_QK / 16; d++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const u32 pair = exists ? query_pair(line, d, h) : 0;
                    if (kQueryInShared) reinterpret_cast<u32*>(fragment(d))[r + 2 * h] = pair;
                    else query[d][r + 2 * h] = pair;
                }
        }
#pragma unroll
        for (int j = 0; j < HEAD_V / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[j][i] = 0.0f;
    }

    /// Two columns of step d of a query row: those that meet the thread's columns of the keys in half h of the step. Of
    /// codes a thread holds four neighbours a step, the even two for the first half.
    DEVICE u32 query_pair(const u16* line, int d, int h) const {
        if (CODES) {
            if (16 * d >= a.shape.head_qk) return 0;
            const uint2 four = *(const uint2*)(line + 16 * d + lane % 4 * 4);
            return permute_bytes(four.x, four.y, h ? 0x7632 : 0x5410);
        }
        return 16 * d + 8 * h < a.shape.head_qk ? *(const u32*)(line + 16 * d + 8 * h + lane % 4 * 2) : 0;
    }

    /// The thread's part of step d of the queries; the warps of a row tile write the same there.
    DEVICE uint4* fragment(int d) { return &shared.query[warp / kSlices * (HEAD_QK / 16) + d][lane]; }

    DEVICE void load_query(u32 (&part)[4], int d) {
        if (kQueryInShared) {
            const uint4 kept = *fragment(d);
            part[0] = kept.x, part[1] = kept.y, part[2] = kept.z, part[3] = kept.w;
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) part[i] = query[d][i];
        }
    }

    /// Asks for the mask of the warp's 16 keys; `column0` is the number of the thread's first one. Numbers as low as there are
    /// would be infinite times the scale.
    DEVICE void load_mask(i32 column0) {
        if (!has_mask()) return;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const i32 column = column0 + i / 4 * 8 + i % 2;
            const float number = column < end[i / 2 % 2] ? masking.number((i64)mask_place[i / 2 % 2] + column) : kMinusInfinity;
            added[i / 4][i % 4] = number == kMinusInfinity ? number : fmaxf(number, -1e37f);
        }
    }

    /// Scores of the warp's 16 keys.
    DEVICE void score(float (&s)[2][4]) {
#pragma unroll
        for (int i = 0; i < 8; i++) s[i / 4][i % 4] = 0.0f;
        const u32 tile = shared_address(shared.k[stage]) + head * kKBytes;
        const u32 row = slice * 16 + lane / 16 * 8 + lane % 8, half = lane / 8 % 2 * 16;
#pragma unroll
        for (int d = 0; d < HEAD_QK / (CODES ? 32 : 16); d++) {
            u32 key[4], part[4];
            matrix_load4(key, tile + d / kRowSteps * kPanelBytes + swizzled<kRowBytes>(row, d % kRowSteps * 32 + half));
            if (CODES) {
                // 16 columns of 8 keys a matrix: two steps of the product.
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    u32 even, odd;
                    widen4<ELEMENT>(key[i], even, odd);
                    load_query(part, 2 * d + i % 2);
                    warp_mma<ELEMENT>(s[i / 2], part, even, odd);
                }
                continue;
            }
            load_query(part, d);
            warp_mma<ELEMENT>(s[0], part, key[0], key[1]);
            warp_mma<ELEMENT>(s[1], part, key[2], key[3]);
        }
    }

    /// Scores become weights; the outputs follow the maxima. `column0` is the number of the thread's first key.
    template <bool kMasked> DEVICE void weigh(float (&s)[2][4], i32 column0) {
        float top[2];
        bool grows = false;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float& score = s[i / 4][i % 4];
            const int r = i / 2 % 2;
            const i32 column = column0 + i / 4 * 8 + i % 2;
            if (cap_scale != 0.0f) score = soft_cap(score, cap_scale);
            if (has_mask()) score = fmaf(score, factor, added[i / 4][i % 4]);
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
            const float base = (max[r] == kMinusInfinity ? 0.0f : max[r]) * (CODES ? scale : 1.0f);
            float& score = s[i / 4][i % 4];
            // Masks leave scores whose products with the scale round to far more than one.
            score = exp2_approx(CODES ? fmaf(score, scale, -base) : (score - base) * scale);
            sum[r] += score;
        }
    }

    /// Adds the weighted values of the warp's 16 keys.
    DEVICE void gather(const float (&s)[2][4]) {
        u32 weight[4];
#pragma unroll
        for (int i = 0; i < 4; i++) weight[i] = pack2<ELEMENT>(s[i / 2][i % 2 * 2], s[i / 2][i % 2 * 2 + 1]);
        const u32 tile = shared_address(shared.v[stage]) + head * kVBytes;
        const u32 row = slice * 16 + lane / 8 % 2 * 8 + lane % 8, half = lane / 16 * 16;
#pragma unroll
        for (int d = 0; d < HEAD_V / (CODES ? 32 : 16); d++) {
            u32 value[4];
            matrix_load4_transposed(value, tile + d / kRowSteps * kPanelBytes + swizzled<kRowBytes>(row, d % kRowSteps * 32 + half));
            if (CODES) {
                // A thread's word is two neighbouring columns of two keys: even columns and odd ones are products apart.
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    u32 even[2], odd[2];
                    widen4<ELEMENT>(value[2 * i], even[0], odd[0]);
                    widen4<ELEMENT>(value[2 * i + 1], even[1], odd[1]);
                    warp_mma<ELEMENT>(out[4 * d + 2 * i], weight, even[0], even[1]);
                    warp_mma<ELEMENT>(out[4 * d + 2 * i + 1], weight, odd[0], odd[1]);
                }
                continue;
            }
            warp_mma<ELEMENT>(out[2 * d], weight, value[0], value[1]);
            warp_mma<ELEMENT>(out[2 * d + 1], weight, value[2], value[3]);
        }
    }

    /// Adds up the outputs of the slices in shared memory, relative to their common maxima: rows below `rows` of each head.
    DEVICE void join(i32 rows) {
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
            if (row_of(row) >= rows) continue;
            const float factor = exp2_approx(shared.max[slice][row] - joined().row_max(row));
            if (CODES) {
#pragma unroll
                for (int j = 0; j < HEAD_V / 8; j += 2) {
                    float4& at = *reinterpret_cast<float4*>(&shared.out[row][8 * j + lane % 4 * 4]);
                    float4 value = is_first ? float4{0.0f, 0.0f, 0.0f, 0.0f} : at;
                    value.x += out[j][2 * r] * factor, value.y += out[j + 1][2 * r] * factor;
                    value.z += out[j][2 * r + 1] * factor, value.w += out[j + 1][2 * r + 1] * factor;
                    at = value;
                }
                continue;
            }
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

/// A thread block's run of key blocks. `consumer` has the row tile, and `blocks` that feeds it the keys of a piece.
template <class Consumer, class Memory>
DEVICE void consume(const Arguments& a, Memory& shared, Consumer& consumer, const u16* q, const Result& result,
                    const Pieces& pieces, const Deal& deal, i32 unit, i32 end) {
    while (unit < end) {
        const Piece piece(a, shared.starts, unit, end);
        const Sequence sequence(a.shape, piece.batch, a.lengths, a.q_offsets);
        consumer.start(piece, sequence, q, result.scales);
        consumer.blocks(piece, sequence);
        if (!piece.is_whole()) pieces.look(shared.is_last, piece, deal);
        const i32 rows = piece.head_rows(a, sequence);
        consumer.join(rows);
        const Joined joined = consumer.joined();
        if (piece.is_whole()) {
#pragma unroll 1
            for (i32 row = consumer.warp; row < tile_end(rows); row += kWarps) {
                if (row_of(row) >= rows) continue;
                float values[HEAD_V / 32];
                joined.load(values, row);
                result.write(piece, sequence, row, values, joined.row_max(row), joined.row_sum(row));
            }
        } else if (shared.is_last || pieces.leave(shared.is_last, joined, piece, deal, rows)) {
            pieces.merge(joined, piece, sequence, deal, result, rows);
        }
        named_barrier<1, kConsumerThreads>();
        unit += piece.count;
    }
}
