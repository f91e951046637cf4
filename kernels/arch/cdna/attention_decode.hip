//! Attention of a few query rows over a long cache: every key and value is read once, at the speed of memory.
//!
//! The query heads that share a key/value head are folded into the rows of one product. A workgroup takes a run of keys
//! of a (sequence, head, tile of ROWS packed rows); its waves work on blocks of BN keys in turn and never wait for each
//! other until the end. Keys go from memory into registers as operands of S^T = K Q^T; values through the wave's own part of
//! LDS, where they are transposed for O^T = V^T P^T. The next block is on its way while one is worked on. Items cut in
//! pieces are merged by the workgroup that finishes last.
//!
//!     lane l holds of packed row l % 16 the keys (and output columns) 4 (l / 16) + r of every 16, r = 0 .. 3
//!
//! Of a cache of codes a lane's 16 of a key are its operands of two products: so are the queries dealt out.
//!
//! Definitions from the unit: SYMBOL, ELEMENT (BF16, F16 or F32), CODES, HEAD_QK, HEAD_V, ROWS (16 or 32), BN (32), WAVES,
//! MASK (1: a mask in memory), STAGES (tiles of values of a wave; loads straight into LDS need 2), SHARED_BYTES (LDS of a workgroup).

static_assert(ROWS == 16 || ROWS == 32, "row tiles of the matrix product");
static_assert(BN == 32 && HEAD_QK % 32 == 0 && HEAD_V % 64 == 0, "tiles of the matrix product, columns of a wave");
static_assert(STAGES == 2 || !kHasDirectLoads || CODES, "the next values arrive while these are read");
static_assert(!CODES || HEAD_QK % 64 == 0, "columns of keys that the lanes of a row hold");

constexpr u32 kThreads = 64 * WAVES;
constexpr u32 kRowTiles = ROWS / 16, kColumnTiles = HEAD_V / 16, kKeyTiles = BN / 16;
constexpr u32 kScoreSteps = HEAD_QK / (4 * kPieceElems), kOutputSteps = BN / (4 * kPieceElems);
constexpr u32 kKeyPieces = HEAD_QK * kCachedBytes / 64; // of 16 bytes, that a lane loads of a key
typedef Mma<ELEMENT, 16> Product;
typedef Product::Acc Sums;

constexpr u32 kOutBytes = ROWS * HEAD_V * 4;
constexpr u32 kWaveBytes = STAGES * kValueBytes > kOutBytes ? STAGES * kValueBytes : kOutBytes;
/// What follows the waves' own parts: maxima in powers of two, sums relative to them, whether the piece is the last.
struct States {
    float top[WAVES][ROWS], sum[WAVES][ROWS];
    u32 is_last, unused[3];
};
static_assert(WAVES * kWaveBytes + sizeof(States) == SHARED_BYTES, "what the planner reckons with");
__shared__ __attribute__((aligned(1024))) u8 lds[SHARED_BYTES];

DEVICE Lds own_part(u32 wave) { return (Lds)lds + wave * kWaveBytes; }
DEVICE LOCAL States& states() { return *(LOCAL States*)((Lds)lds + WAVES * kWaveBytes); }
/// Outputs of a wave at its end: four columns of a row.
DEVICE LOCAL float* output(u32 wave, u32 row, u32 column) {
    return (LOCAL float*)own_part(wave) + row * HEAD_V + column;
}

/// A run of keys of an item.
struct Piece {
    i32 batch, head, row0, rows;     // row0: first of the packed rows, of which there are q_len * group
    i32 item, split, count;          // count: pieces of the item
    i32 begin, end;                  // keys
    Sequence sequence;

    static DEVICE i32 batch_of(const AttentionShape& shape) {
        return blockIdx.x / shape.section / shape.row_tiles / shape.kv_heads;
    }
    DEVICE Piece(const Arguments& a, i32 chunk)
        : batch(batch_of(a.shape)), sequence(a.shape, batch, a.lengths, a.q_offsets) {
        split = blockIdx.x % a.shape.section, item = blockIdx.x / a.shape.section;
        head = item / a.shape.row_tiles % a.shape.kv_heads;
        row0 = item % a.shape.row_tiles * ROWS;
        rows = min((i32)ROWS, sequence.q_len * a.shape.group - row0);
        const i32 first = row0 / a.shape.group, last = (row0 + rows - 1) / a.shape.group;
        const i32 span_begin = sequence.key_begin(a.shape, first) / (i32)BN * (i32)BN;
        const i32 span_end = max(sequence.key_end(a.shape, last), 0);
        count = max(1, ceil_div(max(span_end - span_begin, 0), chunk));
        begin = span_begin + split * chunk;
        end = min(span_end, begin + chunk);
    }
    DEVICE bool exists() const { return rows > 0 && split < count; }
};

/// A wave's share of a piece; every value belongs to packed rows 16 n + l % 16.
struct Wave {
    const AttentionShape& shape;
    const Piece& piece;
    const Rows key_rows;
    u32x4 query[kRowTiles][kScoreSteps], key[kKeyTiles][kKeyPieces];
    Sums scores[kRowTiles][kKeyTiles], out[kRowTiles][kColumnTiles];
    u32x4 weights[kRowTiles][kOutputSteps];
    float top[kRowTiles], sum[kRowTiles];
    i32 key_begin[kRowTiles], key_end[kRowTiles]; // that the lane's rows see
    i32 plain_begin, plain_end;                   // keys that every row sees
    const Masking masking;
    const u8* mask[kRowTiles];
    const float key_scale;

    DEVICE Wave(const Arguments& a, const Piece& piece_, const Rows& keys, const u8* q, const Masking& masking_,
                const CodeScales& scales)
        : shape(a.shape), piece(piece_), key_rows(keys), masking(masking_),
          key_scale(scales.of_keys(piece_.head, a.shape.head_qk)) {
        const Sequence& sequence = piece.sequence;
        plain_begin = sequence.key_begin(shape, (piece.row0 + piece.rows - 1) / shape.group);
        plain_end = sequence.key_end(shape, piece.row0 / shape.group);
        const u32 bytes = shape.head_qk * kElementBytes;
#pragma unroll
        for (u32 n = 0; n < kRowTiles; n++) {
            const i32 index = n * 16 + lane_id() % 16, packed = piece.row0 + index;
            const bool exists = index < piece.rows;
            const i32 row = packed / shape.group, head = piece.head * shape.group + packed % shape.group;
            key_begin[n] = sequence.key_begin(shape, row), key_end[n] = exists ? sequence.key_end(shape, row) : 0;
            top[n] = kMinusInfinity, sum[n] = 0.0f;
            if (MASK) mask[n] = masking.line(piece.batch, exists ? head : 0, exists ? row : 0);
            const i64 first = a.q_offsets ? 0 : piece.batch * shape.q_batch;
            const u8* line = q + (first + (sequence.q_start + row) * shape.q_row + head * shape.q_head) * kElementBytes;
#pragma unroll
            for (u32 s = 0; s < kScoreSteps; s++) {
                const u32 at = CODES ? s / 2 * 128 + lane_id() / 16 * 32 + s % 2 * 16 : s * 64 + lane_id() / 16 * 16;
                query[n][s] = exists && at < bytes ? *(const GLOBAL u32x4*)(line + at) : u32x4{0, 0, 0, 0};
                if (scales.has_columns() && at < bytes) {
                    const float* columns = scales.key_columns(piece.head, shape.head_qk) + at / 2;
                    query[n][s] = scaled_query<ELEMENT>(query[n][s], columns, kCodeUnit / key_scale);
                }
            }
#pragma unroll
            for (u32 c = 0; c < kColumnTiles; c++) out[n][c] = Sums(0.0f);
        }
    }

    DEVICE void load_keys(const Pages& pages, i32 key0) {
        Place places[kKeyTiles];
        const u32 lane = fresh(lane_id());
#pragma unroll
        for (u32 t = 0; t < kKeyTiles; t++) places[t] = pages.find(key0 + (i32)t * 16);
#pragma unroll
        for (u32 t = 0; t < kKeyTiles; t++) {
            const Buffer buffer = buffer_of(key_rows.descriptor(places[t], 16));
            const u32 offset = lane % 16 * key_rows.row_bytes;
#pragma unroll
            for (u32 s = 0; s < kKeyPieces; s++) {
                const u32 at = s * 64 + lane / 16 * 16;
                key[t][s] = buffer_load16(buffer, at < key_rows.column_bytes ? offset + at : kNowhere);
            }
        }
    }
    DEVICE void score_codes() {
#pragma unroll
        for (u32 t = 0; t < kKeyTiles; t++) {
#pragma unroll
            for (u32 n = 0; n < kRowTiles; n++) scores[n][t] = Sums(0.0f);
#pragma unroll
            for (u32 s = 0; s < kScoreSteps; s += 2) {
                u32x4 pieces[2];
                widen_codes<ELEMENT>(key[t][s / 2], pieces);
#pragma unroll
                for (u32 i = 0; i < 2 * kRowTiles; i++)
                    Product::run(scores[i / 2][t], &pieces[i % 2], &query[i / 2][s + i % 2]);
            }
        }
    }
    DEVICE void score() {
        if (CODES) return score_codes();
#pragma unroll
        for (u32 n = 0; n < kRowTiles; n++)
#pragma unroll
            for (u32 t = 0; t < kKeyTiles; t++) {
                scores[n][t] = Sums(0.0f);
#pragma unroll
                for (u32 s = 0; s < kScoreSteps; s++) Product::run(scores[n][t], &key[t][s], &query[n][s]);
            }
    }
    DEVICE void cap(u32 n) {
#pragma unroll
        for (u32 i = 0; i < 4 * kKeyTiles; i++)
            scores[n][i / 4][i % 4] = soft_cap(scores[n][i / 4][i % 4], CODES ? shape.cap_scale * key_scale : shape.cap_scale);
    }
    /// Of scores after soft caps and a mask in memory, times log2 e.
    DEVICE float scale() const {
        return MASK ? kLog2E : CODES && shape.cap_scale == 0.0f ? shape.scale_log2 * key_scale : shape.scale_log2;
    }
    /// Numbers as low as there are would be infinite times the scale.
    DEVICE void add_mask(u32 n, i32 key0) {
        const i32 end = piece.sequence.kv_len;
        const float factor = shape.scale_log2 * (1.0f / kLog2E);
#pragma unroll
        for (u32 t = 0; t < kKeyTiles; t++) {
            const i32 key = key0 + (i32)(t * 16 + lane_id() / 16 * 4);
            const f32x4 four = Masking::each(masking.shape.kind, mask[n], key, end);
#pragma unroll
            for (u32 r = 0; r < 4; r++) {
                const float number = four[r] == kMinusInfinity ? four[r] : maximum(four[r], -1e37f);
                scores[n][t][r] = scores[n][t][r] * factor + number;
            }
        }
    }
    DEVICE void hide(u32 n, i32 key0) {
        const i32 first = key_begin[n] - key0 - lane_id() / 16 * 4, last = key_end[n] - key0 - lane_id() / 16 * 4;
#pragma unroll
        for (u32 i = 0; i < 4 * kKeyTiles; i++) {
            const i32 key = i / 4 * 16 + i % 4;
            scores[n][i / 4][i % 4] = key >= last || key < first ? kMinusInfinity : scores[n][i / 4][i % 4];
        }
    }
    /// Scores of the block from `key0` become weights; the outputs follow the maxima where they grow too far.
    DEVICE void weigh(i32 key0) {
        const bool is_plain = key0 >= plain_begin && key0 + (i32)BN <= plain_end && piece.rows == ROWS;
        const float scale = this->scale();
#pragma unroll
        for (u32 n = 0; n < kRowTiles; n++) {
            if (shape.cap_scale != 0.0f) cap(n);
            if (MASK) add_mask(n, key0);
            if (!is_plain) hide(n, key0);
            float next = top[n];
#pragma unroll
            for (u32 i = 0; i < 4 * kKeyTiles; i += 2)
                next = max3(next, scores[n][i / 4][i % 4], scores[n][i / 4][i % 4 + 1]);
            next = maximum(next, other_quarter(next));
            next = maximum(next, other_half(next));
            if (any_lane((next - top[n]) * scale > kLazyGrowth)) {
                const float alpha = exp2_approx((top[n] - (next == kMinusInfinity ? 0.0f : next)) * scale);
                top[n] = next;
                sum[n] *= alpha;
#pragma unroll
                for (u32 c = 0; c < kColumnTiles; c++) out[n][c] *= alpha;
            }
            const float floor = top[n] == kMinusInfinity ? 0.0f : top[n], base = floor * scale;
            f32x2 total = {0.0f, 0.0f};
#pragma unroll
            for (u32 i = 0; i < 4 * kKeyTiles; i += 2) {
                const f32x2 pair = {scores[n][i / 4][i % 4], scores[n][i / 4][i % 4 + 1]};
                // Masks leave scores whose products with the scale round to far more than one.
                const f32x2 power = MASK ? (pair - floor) * scale : pair * scale - base;
                const f32x2 weight = {exp2_approx(power.x), exp2_approx(power.y)};
                total += weight;
                if (kElementBytes == 2) {
                    weights[n][0][i / 2] = pack_weights<ELEMENT>(weight);
                } else {
                    weights[n][i / 4 % kOutputSteps][i % 4] = __float_as_uint(weight.x);
                    weights[n][i / 4 % kOutputSteps][i % 4 + 1] = __float_as_uint(weight.y);
                }
            }
            sum[n] += total.x + total.y;
        }
    }
    DEVICE void gather(Lds tile) {
#pragma unroll
        for (u32 s = 0; s < kOutputSteps; s++)
#pragma unroll
            for (u32 c = 0; c < kColumnTiles; c++) {
                const u32x4 value = ValueReader<16>::read(tile, c, s);
#pragma unroll
                for (u32 n = 0; n < kRowTiles; n++) Product::run(out[n][c], &value, &weights[n][s]);
            }
    }
    /// Leaves sums and outputs in LDS.
    DEVICE void leave() {
#pragma unroll
        for (u32 n = 0; n < kRowTiles; n++) {
            float total = sum[n] + other_quarter(sum[n]);
            total += other_half(total);
            const u32 row = n * 16 + lane_id() % 16;
            if (lane_id() < 16) {
                states().top[wave_id()][row] = top[n] * scale();
                states().sum[wave_id()][row] = total;
            }
#pragma unroll
            for (u32 c = 0; c < kColumnTiles; c++)
                *(LOCAL f32x4*)output(wave_id(), row, c * 16 + lane_id() / 16 * 4) = out[n][c];
        }
    }
};

/// A row's outputs in one wave: a lane's neighbouring columns, relative to `top` in powers of two, and the sum of weights.
struct Line {
    static constexpr u32 kColumns = HEAD_V / 64;
    float values[kColumns] = {}, top = kMinusInfinity, sum = 0.0f;

    static DEVICE u32 column() { return lane_id() * kColumns; }
    /// Adds outputs whose maximum the line's is not below.
    template <class From> DEVICE void add(float part_top, float part_sum, From from) {
        const float factor = part_sum > 0.0f ? exp2_approx(part_top - top) : 0.0f;
        sum += part_sum * factor;
#pragma unroll
        for (u32 i = 0; i < kColumns; i++) values[i] += factor > 0.0f ? from[i] * factor : 0.0f;
    }
    /// The waves' outputs.
    DEVICE void join(u32 row) {
        for (u32 w = 0; w < WAVES; w++)
            if (states().sum[w][row] > 0.0f) top = maximum(top, states().top[w][row]);
        for (u32 w = 0; w < WAVES; w++) add(states().top[w][row], states().sum[w][row], output(w, row, column()));
    }
    DEVICE void write(const Arguments& a, const Piece& piece, u32 packed_row, u8* result, const float* sinks,
                      const CodeScales& scales) const {
        const AttentionShape& shape = a.shape;
        const i32 packed = piece.row0 + (i32)packed_row;
        const i32 row = packed / shape.group, head = piece.head * shape.group + packed % shape.group;
        const float total = sum == 0.0f ? 0.0f : sum + (sinks ? exp2_approx(sinks[head] * kLog2E - top) : 0.0f);
        const float inverse = total == 0.0f ? 0.0f : scales.of_values(piece.head) / total;
        const i64 first = a.q_offsets ? 0 : piece.batch * shape.out_batch;
        const i64 at = first + (piece.sequence.q_start + row) * shape.out_row + head * shape.out_head + column();
        u8* line = result + at * kElementBytes;
        if (column() >= shape.head_v) return;
#pragma unroll
        for (u32 i = 0; i < kColumns; i++) {
            float value = values[i] * inverse;
            if (scales.has_columns()) value *= scales.value_columns(piece.head, shape.head_v)[column() + i];
            if (kElementBytes == 4) ((GLOBAL float*)line)[i] = value;
            else ((GLOBAL u16*)line)[i] = (u16)pack_halves<ELEMENT>(value, 0.0f);
        }
    }
};

/// Pieces of items in the workspace, [groups][ROWS].
struct Pieces {
    u32* tickets;   // one for each item, zero between launches
    f32x2* state;   // maximum in powers of two, sum
    float* out;     // with HEAD_V columns

    DEVICE i64 slot(const AttentionShape& shape, i32 item, i32 split, u32 row) const {
        return ((i64)item * shape.section + split) * ROWS + row;
    }
    DEVICE void leave(const Line& line, i64 at) const {
        if (lane_id() == 0) state[at] = f32x2{line.top, line.sum};
#pragma unroll
        for (u32 i = 0; i < Line::kColumns; i++) out[at * HEAD_V + Line::column() + i] = line.values[i];
    }
    /// True for the workgroup that left the last piece of the item.
    DEVICE bool finish(const Piece& piece) const {
        __threadfence();
        lds_barrier();
        if (threadIdx.x == 0) {
            states().is_last = add_shared(&tickets[piece.item], 1) == (u32)piece.count - 1;
        }
        lds_barrier();
        __threadfence();
        return states().is_last;
    }
    DEVICE void merge(Line& line, const AttentionShape& shape, const Piece& piece, u32 row) const {
        for (i32 c = 0; c < piece.count; c++) {
            const f32x2 s = state[slot(shape, piece.item, c, row)];
            if (s.y > 0.0f) line.top = maximum(line.top, s.x);
        }
        for (i32 c = 0; c < piece.count; c++) {
            const i64 at = slot(shape, piece.item, c, row);
            const f32x2 s = state[at];
            line.add(s.x, s.y, out + at * HEAD_V + Line::column());
        }
    }
};

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    SYMBOL(const AttentionShape shape, const CacheShape cache, const u8* q, const u8* k, const u8* v, u8* result,
           const i32* lengths, const i32* q_offsets, const i32* table, const float* sinks, u32 chunk, u32* tickets,
           f32x2* piece_state, float* piece_out, const MaskShape mask_shape, const u8* mask, const float* k_scales,
           const float* v_scales, u32 scale_kind) {
    const Arguments a{shape, lengths, q_offsets, table};
    const Piece piece(a, (i32)chunk);
    if (!piece.exists()) return;
    const Pages pages(a, cache, piece.batch, piece.sequence.kv_len);
    const CodeScales scales{k_scales, v_scales, scale_kind};
    Wave wave(a, piece, Rows::keys(cache, k, piece.head, shape.head_qk), q, Masking{mask_shape, mask}, scales);
    ValueCopy<1> values(Rows::values(cache, v, piece.head, shape.head_v));
    constexpr i32 kStep = WAVES * BN;
    const i32 first = piece.begin + (i32)(wave_id() * BN);
    if (first < piece.end) {
        wave.load_keys(pages, first);
        values.start(own_part(wave_id()), pages, first);
    }
    Lds tile = own_part(wave_id()), other = own_part(wave_id()) + (STAGES - 1) * kValueBytes;
    for (i32 key0 = first; key0 < piece.end; key0 += kStep) {
        values.finish(tile);
        finish_copies();
        wave.score();
        if (key0 + kStep < piece.end) {
            wave.load_keys(pages, key0 + kStep);
            order();
            values.start(other, pages, key0 + kStep);
        }
        order();
        wave.weigh(key0);
        wave.gather(tile);
        const Lds next = other;
        other = tile, tile = next;
    }
    wave.leave();
    lds_barrier();
    const Pieces pieces{tickets, piece_state, piece_out};
    for (u32 row = wave_id(); row < (u32)piece.rows; row += WAVES) {
        Line line;
        line.join(row);
        if (piece.count == 1) line.write(a, piece, row, result, sinks, scales);
        else pieces.leave(line, pieces.slot(shape, piece.item, piece.split, row));
    }
    if (piece.count == 1 || !pieces.finish(piece)) return;
    for (u32 row = wave_id(); row < (u32)piece.rows; row += WAVES) {
        Line line;
        pieces.merge(line, shape, piece, row);
        line.write(a, piece, row, result, sinks, scales);
    }
    if (threadIdx.x == 0) tickets[piece.item] = 0;
}
