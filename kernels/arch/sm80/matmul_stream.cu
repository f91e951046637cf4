//! Products of few rows with weights of 4 or 8 bits: every warp streams records (see `nbits.cuh`) of its 16 outputs through
//! a ring of its own and multiplies codes, which 16-bit floats hold exactly; scales are applied to sums in f32. f32
//! activations are split into two bf16 numbers.
//!
//! Definitions from the planner (`kernels/src/gpu/matmul/stream.rs`): IN, the type of activations, scales and results; BITS;
//! one kernel for each group size, number of tokens and presence of zero points, named by SYMBOL_*.
//!
//! A block has 8 warps: `row_warps` times 16 outputs, the others share the depth and sum their parts in shared memory.
//! Blocks along x walk tiles of outputs; along y: tiles of tokens.

typedef IN::Bits In;
constexpr u32 kWarps = 8;

/// The type in which products of activations are computed, and how many numbers an activation is split into.
template <class T> struct Compute { typedef T Type; static constexpr u32 kParts = 1; };
template <> struct Compute<F32> { typedef BF16 Type; static constexpr u32 kParts = 2; };
typedef Compute<IN>::Type Half;
constexpr u32 kParts = Compute<IN>::kParts;

struct StreamProblem {
    i32 m, n, k;
    /// Records along K.
    u32 records;
    u32 row_warps;
    u32 flags;
    float alpha, beta;
    /// Distances of rows in elements.
    i64 x_row, d_row, residual_row;
};
constexpr u32 kBiasF32 = 8;

DEVICE float widen(const float* p) { return *p; }
DEVICE float widen(const u16* p) { return low2<Half>(*p); }
DEVICE void narrow(float* p, float v) { *p = v; }
DEVICE void narrow(u16* p, float v) { *p = (u16)pack2<Half>(v, 0.f); }

/// One record's 16 rows as a warp keeps them in shared memory: codes, scales, zero points.
template <int kBits, u32 kGroups, bool kHasZeros> struct Share {
    static constexpr u32 kCodes = 2 * kQuarterBytes<kBits>, kScales = 16 * kGroups * sizeof(In);
    static constexpr u32 kZeros = kHasZeros ? 16 * kGroups : 0;
    static constexpr u32 kBytes = kCodes + kScales + kZeros, kRecordBytes = 4 * kBytes;

    /// Starts copying the rows of warp `warp` of a record.
    static DEVICE void copy(u32 to, const u8* record, u32 warp, u32 lane) {
#pragma unroll
        for (u32 i = 0; i < kCodes / 512; i++) {
            const u32 half = i / (kBits / 4), part = i % (kBits / 4);
            const u8* from = record + (half * 4 + warp) * kQuarterBytes<kBits> + part * 512 + lane * 16;
            copy16_part(to + i * 512 + lane * 16, from, 16);
        }
        const u8* rest = record + 4 * kCodes;
        if (lane < kScales / 16) copy16_part(to + kCodes + lane * 16, rest + warp * kScales + lane * 16, 16);
        const u8* points = rest + 4 * kScales + warp * kZeros;
        if (lane < kZeros / 16) copy16_part(to + kCodes + kScales + lane * 16, points + lane * 16, 16);
    }
    /// Words of the codes of half `half` of the record.
    static DEVICE void codes(u32 (&words)[kBits], const u8* share, u32 half, u32 lane) {
#pragma unroll
        for (u32 part = 0; part < kBits / 4; part++) {
            const uint4 v = *(const uint4*)(share + (half * (kBits / 4) + part) * 512 + lane * 16);
            words[4 * part] = v.x, words[4 * part + 1] = v.y, words[4 * part + 2] = v.z, words[4 * part + 3] = v.w;
        }
    }
    /// The scales of the lane's two rows.
    static DEVICE float2 scales(const u8* share, u32 group, u32 lane) {
        const u8* at = share + kCodes + (lane / 4 * kGroups + group) * 2 * sizeof(In);
        if constexpr (sizeof(In) == 4) {
            return *(const float2*)at;
        } else {
            const u32 both = *(const u32*)at;
            return make_float2(low2<Half>(both), high2<Half>(both));
        }
    }
    static DEVICE Zeros zeros(const u8* share, u32 group, u32 lane) {
        if constexpr (!kHasZeros) return middle_zeros<Half, kBits>();
        else return zeros_of<Half, kBits>(*(const u16*)(share + kCodes + kScales + (lane / 4 * kGroups + group) * 2));
    }
};

/// Two neighbouring activations in memory, and as pairs in the type of computation: the upper parts, then the rests.
template <class T> struct Neighbours { typedef u32 Type; };
template <> struct Neighbours<F32> { typedef float2 Type; };
typedef Neighbours<IN>::Type Pair;
DEVICE void split(u32 (&x)[1], u32 v) { x[0] = v; }
DEVICE void split(u32 (&x)[2], float2 v) {
    x[0] = pack2<Half>(v.x, v.y);
    x[1] = pack2<Half>(v.x - low2<Half>(x[0]), v.y - high2<Half>(x[0]));
}

/// Where a warp is in the records of all tiles that its block computes.
struct Cursor {
    u32 tile, record;
    DEVICE void advance(const StreamProblem& p, u32 first, u32 step) {
        record += step;
        if (record >= p.records) record = first, tile += gridDim.x;
    }
};

template <int kBits, u32 kGroup, bool kHasZeros, u32 kTokens>
DEVICE void stream(In* d, const u8* weights, const In* x, const void* bias, const In* residual, const StreamProblem& p) {
    constexpr u32 kGroups = kGroup < kRecordDepth ? kRecordDepth / kGroup : 1, kTiles = kTokens / 8;
    constexpr u32 kStepsOfGroup = 8 / kGroups;
    typedef Share<kBits, kGroups, kHasZeros> Own;
    constexpr u32 kPartBytes = kWarps * 16 * (kTokens + 1) * 4, kFit = (49152 - kPartBytes) / (kWarps * Own::kBytes);
    constexpr u32 kStages = kFit < 6 ? kFit : 6;
    static_assert(kStages >= 2, "a record is read while the next one is on its way");
    __shared__ __align__(16) u8 ring[kWarps][kStages][Own::kBytes];
    __shared__ float parts[kWarps][16][kTokens + 1];
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 depth_warps = kWarps / p.row_warps, first = warp / p.row_warps, width = 16 * p.row_warps;
    const u32 tiles = (p.n + width - 1) / width;
    const bool has_records = first < p.records;

    Cursor ahead = {blockIdx.x, first};
    u32 filled = 0;
    auto fetch = [&] {
        if (has_records && ahead.tile < tiles) {
            const u32 rows = ahead.tile * p.row_warps + warp % p.row_warps;
            const u8* record = weights + ((u64)(rows / 4) * p.records + ahead.record) * Own::kRecordBytes;
            Own::copy(shared_address(ring[warp][filled]), record, rows % 4, lane);
            ahead.advance(p, first, depth_warps);
        }
        copy_commit();
        filled = filled + 1 == kStages ? 0 : filled + 1;
    };
    // Weights are nobody's result: they are on their way before the kernel ahead has ended.
#pragma unroll
    for (u32 i = 0; i < kStages - 1; i++) fetch();
    dependency_wait();
    const In* tokens[kTiles];
#pragma unroll
    for (u32 t = 0; t < kTiles; t++) {
        // Tokens that do not exist are computed as the last one and never stored.
        tokens[t] = x + min((i32)(blockIdx.y * kTokens + t * 8 + lane / 4), p.m - 1) * p.x_row + 2 * (lane & 3);
    }
    const i32 limit = p.k - 2 * (i32)(lane & 3);
    u32 read = 0;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float sums[kTiles][4] = {};
#pragma unroll 1
        for (u32 record = first; record < p.records; record += depth_warps) {
            const i32 k = record * kRecordDepth;
            Pair pairs[kTiles][16];
            if (k + (i32)kRecordDepth <= p.k) {
#pragma unroll
                for (u32 i = 0; i < 16; i++) {
#pragma unroll
                    for (u32 t = 0; t < kTiles; t++) pairs[t][i] = *(const Pair*)(tokens[t] + k + i * 8);
                }
            } else {
#pragma unroll
                for (i32 i = 0; i < 16; i++) {
#pragma unroll
                    for (u32 t = 0; t < kTiles; t++) {
                        pairs[t][i] = k + i * 8 < limit ? *(const Pair*)(tokens[t] + k + i * 8) : Pair();
                    }
                }
            }
            copy_wait<kStages - 2>();
            __syncwarp();
            fetch();
            const u8* share = ring[warp][read];
            read = read + 1 == kStages ? 0 : read + 1;
            u32 codes[kBits];
#pragma unroll
            for (u32 group = 0; group < kGroups; group++) {
                const Zeros zeros = Own::zeros(share, group, lane);
                float part[kTiles][4];
#pragma unroll
                for (u32 s = group * kStepsOfGroup; s < (group + 1) * kStepsOfGroup; s++) {
                    if (s % 4 == 0) Own::codes(codes, share, s / 4, lane);
                    u32 a[4];
                    decode<Half, kBits>(a, codes + s % 4 * (kBits / 4), zeros);
#pragma unroll
                    for (u32 t = 0; t < kTiles; t++) {
                        u32 low[kParts], high[kParts];
                        split(low, pairs[t][2 * s]);
                        split(high, pairs[t][2 * s + 1]);
#pragma unroll
                        for (u32 i = 0; i < kParts; i++) {
                            if (s % kStepsOfGroup + i == 0) warp_mma_first<Half>(part[t], a, low[i], high[i]);
                            else warp_mma<Half>(part[t], a, low[i], high[i]);
                        }
                    }
                }
                const float2 scale = Own::scales(share, group, lane);
#pragma unroll
                for (u32 t = 0; t < kTiles; t++) {
                    sums[t][0] += scale.x * part[t][0], sums[t][1] += scale.x * part[t][1];
                    sums[t][2] += scale.y * part[t][2], sums[t][3] += scale.y * part[t][3];
                }
            }
        }
#pragma unroll
        for (u32 t = 0; t < kTiles; t++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) parts[warp][lane / 4 + i / 2 * 8][t * 8 + 2 * (lane & 3) + i % 2] = sums[t][i];
        }
        __syncthreads();
        for (u32 at = threadIdx.x; at < width * kTokens; at += kWarps * 32) {
            const u32 row = at % width, token = at / width;
            const i32 n = tile * width + row, m = blockIdx.y * kTokens + token;
            if (n >= p.n || m >= p.m) continue;
            float v = 0.f;
            for (u32 w = row / 16; w < kWarps; w += p.row_warps) v += parts[w][row % 16][token];
            v *= p.alpha;
            if (bias) v += p.flags & kBiasF32 ? ((const float*)bias)[n] : widen((const In*)bias + n);
            v = activate(v, p.flags & kActivationMask);
            if (residual) v += p.beta * widen(residual + m * p.residual_row + n);
            narrow(d + m * p.d_row + n, v);
        }
        __syncthreads();
    }
    dependency_launch();
}

#define STREAM(NAME, GROUP, ZEROS, TOKENS)                                                                            \
    extern "C" __global__ void __launch_bounds__(256, GROUP < 32 ? 1 : 2)                                             \
        NAME(In* d, const u8* weights, const In* x, const void* bias, const In* residual,                             \
             const __grid_constant__ StreamProblem p) {                                                               \
        stream<BITS, GROUP, ZEROS, TOKENS>(d, weights, x, bias, residual, p);                                         \
    }
KERNELS
