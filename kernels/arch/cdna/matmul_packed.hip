//! Products with weights of 4 or 8 bits on CDNA (`kernels/src/gpu/matmul/nbits.rs` says what they are): few rows of A times
//! weights that stream by, and the unpacking of weights for products of many rows.
//!
//! A record holds 64 outputs by 128 inputs, in four fragments of 16 outputs. Fragment f, place i is output
//! 32 (f / 2) + column_of(16 (f % 2) + i), so that a lane's results are neighbours. Lane l has of place l % 16 the inputs
//! 32 s + 8 (l / 16) + j, s = 0 .. 3, j = 0 .. 7; its code words lie 16 bytes a lane:
//!
//!   4 bits   word s            codes of pair i (j = 2 i, 2 i + 1) at bits 4 i and 4 i + 16
//!   8 bits   words 2 s, 2 s + 1    code j at byte j
//!
//! Behind the codes: scales [fragment][place / 4][group][place % 4], then zero points [fragment][place][group].
//!
//! Definitions from the planner: IN (F32, F16 or BF16), BITS, KERNELS: calls of PACKED(symbol, unpacking symbol, group,
//! zeros); and those of `matmul_tile.h` for one wave of 16 x 32.

static_assert(BM == 16 && BN == 32 && MMA == 16 && WAVES_M == 1 && WAVES_N == 1, "a wave has two fragments");

constexpr u32 kRecordRows = 64, kRecordDepth = 128, kFragments = 4, kWords = BITS / 4;
constexpr u32 kCodeBytes = kRecordRows * kRecordDepth * BITS / 8;
/// Pieces of 16 bytes for eight elements.
constexpr u32 kEight = sizeof(In) / 2;

template <u32 GROUP, bool HAS_ZEROS> struct Record {
    static constexpr u32 kGroups = kRecordDepth / GROUP;
    static constexpr u32 kBytes = kCodeBytes + kRecordRows * kGroups * (sizeof(In) + HAS_ZEROS);
    u32 codes[4 * kWords];
    /// Of the lane's four results.
    float scales[kGroups][4];
    /// Of the lane's place.
    float zeros[kGroups];

    MEMBER void load_codes(const u8* record, u32 fragment) {
        const u32 lane = lane_id();
#pragma unroll
        for (u32 w = 0; w < kWords; w++) {
            const u32x4 four = *(const u32x4*)(record + ((fragment * kWords + w) * 64 + lane) * 16);
#pragma unroll
            for (u32 i = 0; i < 4; i++) codes[w * 4 + i] = four[i];
        }
        const u8* zero = record + kCodeBytes + kRecordRows * kGroups * sizeof(In) + (fragment * 16 + lane % 16) * kGroups;
#pragma unroll
        for (u32 g = 0; g < kGroups; g++) zeros[g] = HAS_ZEROS ? (float)zero[g] : (float)(1 << (BITS - 1));
    }
    static MEMBER float scale_at(const In* scales, u32 at) {
        if constexpr (sizeof(In) == 4) return scales[at];
        else return widen16<IN>(scales[at]);
    }
    MEMBER void load_scales(const u8* record, u32 fragment) {
        const In* from = (const In*)(record + kCodeBytes) + (fragment * 4 + lane_id() / 16) * kGroups * 4;
#pragma unroll
        for (u32 g = 0; g < kGroups; g++) {
#pragma unroll
            for (u32 r = 0; r < 4; r++) scales[g][r] = scale_at(from, g * 4 + r);
        }
    }
    /// Element `j` of word `s`, less its zero point.
    MEMBER float code(u32 s, u32 j) const {
        u32 code;
        if constexpr (BITS == 4) code = codes[s] >> (j / 2 * 4 + j % 2 * 16) & 15;
        else code = codes[2 * s + j / 4] >> j % 4 * 8 & 255;
        // A lane's eight elements have one group.
        const u32 group = GROUP >= 32 ? s * 32 / GROUP : 0;
        const float zero = GROUP >= 32 ? zeros[group] : lane_id() < 32 ? zeros[(2 * s) % kGroups] : zeros[(2 * s + 1) % kGroups];
        return (float)code - zero;
    }
    /// Word `s` as the matrix units take it, times `scale`.
    MEMBER void decode(u32x4 (&pieces)[kEight], u32 s, float scale) const {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float x = code(s, 2 * i) * scale, y = code(s, 2 * i + 1) * scale;
            if constexpr (sizeof(In) == 4) pieces[i / 2][i % 2 * 2] = __float_as_uint(x), pieces[i / 2][i % 2 * 2 + 1] = __float_as_uint(y);
            else pieces[0][i] = pack2<IN>(x, y);
        }
    }
};

/// Of A, as a buffer from the tile's first row on.
struct Activations {
    Buffer buffer;
    u32 first;
    i32 k;
    MEMBER void load(u32x4 (&pieces)[4][kEight], u32 record) const {
#pragma unroll
        for (u32 s = 0; s < 4; s++) {
#pragma unroll
            for (u32 i = 0; i < kEight; i++) {
                const i32 element = record * kRecordDepth + s * 32 + lane_id() / 16 * 8 + i * (16 / sizeof(In));
                pieces[s][i] = first_bytes(buffer_load16(buffer, first + element * sizeof(In)), (k - element) * (i32)sizeof(In));
            }
        }
    }
};

template <u32 GROUP, bool HAS_ZEROS> struct Loop {
    f32x4 acc[1][2];

    static MEMBER f32x4 product(f32x4 sum, const u32x4 (&a)[kEight], const u32x4 (&b)[kEight]) {
#pragma unroll
        for (u32 i = 0; i < kEight; i++) Product::run(sum, &b[i], &a[i]);
        return sum;
    }
    /// `half`: only the lanes of this half of the wave have inputs of the group.
    static MEMBER void mask(u32x4 (&to)[kEight], const u32x4 (&from)[kEight], u32 half) {
        const bool has = lane_id() / 32 == half;
#pragma unroll
        for (u32 i = 0; i < kEight; i++) to[i] = has ? from[i] : (u32x4)0;
    }
    MEMBER void multiply(const u8* record, u32 fragment, u32 tile, const u32x4 (&a)[4][kEight]) {
        Record<GROUP, HAS_ZEROS> weights;
        weights.load_codes(record, fragment);
        weights.load_scales(record, fragment);
        f32x4 part = 0;
#pragma unroll
        for (u32 s = 0; s < 4; s++) {
            u32x4 b[kEight];
            weights.decode(b, s, 1.f);
            if constexpr (GROUP == 16) {
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32x4 masked[kEight];
                    mask(masked, a[s], half);
                    add(tile, product((f32x4)0, masked, b), weights.scales[2 * s + half]);
                }
            } else {
                part = product(part, a[s], b);
                if ((s + 1) * 32 % GROUP == 0) {
                    add(tile, part, weights.scales[s * 32 / GROUP]);
                    part = 0;
                }
            }
        }
    }
    MEMBER void add(u32 tile, f32x4 part, const float (&scale)[4]) {
#pragma unroll
        for (u32 r = 0; r < 4; r++) acc[0][tile][r] += part[r] * scale[r];
    }
};

/// Columns of 32 along x, rows of 16 along y, parts of K along z; the waves take records in turn. `problem.k` inputs lie in
/// ceil(k / 128) records of every 64 outputs.
template <u32 GROUP, bool HAS_ZEROS>
DEVICE void packed_product(const In* a, const u8* weights, const Epilogue& epilogue, const Parts& parts, const Problem& problem, Lds lds) {
    const u32 wave = wave_id(), records = (problem.k + kRecordDepth - 1) / kRecordDepth;
    const Tile tile = {blockIdx.y * problem.col_tiles + blockIdx.x, (i32)blockIdx.y * BM, (i32)blockIdx.x * BN, 0, blockIdx.z,
                       records * blockIdx.z / problem.splits, records * (blockIdx.z + 1) / problem.splits};
    const u32 row_bytes = (u32)(problem.a_row * sizeof(In));
    const u32 rows = min(problem.m - tile.row, (i32)BM);
    const Activations activations = {
        buffer_of(a + tile.row * problem.a_row, ((rows - 1) * row_bytes + problem.k * (u32)sizeof(In) + 3) & ~3u),
        lane_id() % 16 * row_bytes, problem.k};
    const u8* slab = weights + (u64)(blockIdx.x / 2) * records * Record<GROUP, HAS_ZEROS>::kBytes;
    Loop<GROUP, HAS_ZEROS> loop;
    clear(loop.acc);
    // The end goes through a lane's register each time: the compiler would keep much that follows from it beforehand.
#pragma unroll 1
    for (u32 record = tile.first + wave; record < scalar(tile.end); record += K_WAVES) {
        u32x4 pieces[4][kEight];
        activations.load(pieces, record);
        const u8* from = slab + (u64)record * Record<GROUP, HAS_ZEROS>::kBytes;
#pragma unroll
        for (u32 t = 0; t < 2; t++) loop.multiply(from, blockIdx.x % 2 * 2 + t, t, pieces);
    }
    LOCAL f32x4* sums = (LOCAL f32x4*)lds;
#pragma unroll
    for (u32 t = 0; t < 2; t++) sums[(wave * 2 + t) * 64 + lane_id()] = loop.acc[0][t];
    lds_barrier();
    if (wave != 0) return;
#pragma unroll
    for (u32 other = 1; other < K_WAVES; other++) {
#pragma unroll
        for (u32 t = 0; t < 2; t++) loop.acc[0][t] += sums[(other * 2 + t) * 64 + lane_id()];
    }
    wait_lds();
    write_tile(loop.acc, epilogue, problem, tile, parts, lds);
}

/// Writes the weights as n rows of k elements. Records along x, slabs of 64 outputs along y, a wave a fragment.
template <u32 GROUP, bool HAS_ZEROS> DEVICE void unpack(In* out, const u8* weights, i32 n, i32 k) {
    typedef Record<GROUP, HAS_ZEROS> Weights;
    const u32 fragment = wave_id(), lane = lane_id(), place = lane % 16;
    const u8* record = weights + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * Weights::kBytes;
    Weights own;
    own.load_codes(record, fragment);
    const In* scales = (const In*)(record + kCodeBytes) + (fragment * 4 + place / 4) * Weights::kGroups * 4 + place % 4;
    const i32 row = blockIdx.y * kRecordRows + fragment / 2 * 32 + column_of(fragment % 2 * 16 + place);
    if (row >= n) return;
#pragma unroll
    for (u32 s = 0; s < 4; s++) {
        const i32 first = blockIdx.x * kRecordDepth + s * 32 + lane / 16 * 8;
        const u32 group = (first % kRecordDepth) / GROUP;
        u32x4 pieces[kEight];
        own.decode(pieces, s, Weights::scale_at(scales, group * 4));
        const In* elements = (const In*)pieces;
#pragma unroll
        for (i32 j = 0; j < 8; j++) {
            if (first + j < k) out[(i64)row * k + first + j] = elements[j];
        }
    }
}

#define PACKED(SYMBOL_, UNPACK_, GROUP_, ZEROS_)                                                                          \
    extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(K_WAVES * 64, K_WAVES * 64)))                        \
    void SYMBOL_(Out* d, const u8* weights, const In* a, const void* bias, const Out* residual, f32x4* parts,            \
                 u32* arrivals, Problem problem) {                                                                        \
        __shared__ __attribute__((aligned(1024))) u8 shared[SHARED_BYTES];                                               \
        packed_product<GROUP_, ZEROS_>(a, weights, {d, bias, residual, nullptr, nullptr}, {parts, arrivals}, problem,    \
                                       (Lds)shared);                                                                      \
    }                                                                                                                     \
    extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(256, 256)))                                          \
    void UNPACK_(In* out, const u8* weights, i32 n, i32 k) { unpack<GROUP_, ZEROS_>(out, weights, n, k); }

KERNELS
