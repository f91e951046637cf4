//! Matrix product: loading, computing, and the kernels. See `matmul_tile.cuh`.

/// Copies the tiles of one operand; a thread takes the same piece of every kThreads / 8 lines.
template <u32 kExtent, bool kTransposed> struct Copier {
    static constexpr u32 kLines = kThreads / 8;
    /// The thread's first piece at depth 0.
    const In* source;
    i64 pitch;
    u32 target;
    /// What is left of the operand from the thread's piece on: along the tile's rows, and along K.
    i32 rows, depth;

    DEVICE Copier(const In* matrix, i64 pitch, i32 row, i32 rows, i32 depth) : pitch(pitch) {
        const u32 line = threadIdx.x / 8, piece = threadIdx.x % 8;
        target = line * kRowBytes + ((piece ^ (line & 7)) << 4);
        const i32 outer = kTransposed ? line : row + line, inner = kTransposed ? row + piece * kPiece : piece * kPiece;
        source = matrix + outer * pitch + inner;
        this->rows = rows - (kTransposed ? inner : outer);
        this->depth = depth - (kTransposed ? outer : inner);
    }

    /// The same where all of the tile lies inside the operand.
    DEVICE void copy_whole(u32 tile, i32 k) const {
        const In* from = source + (kTransposed ? k * pitch : k);
#pragma unroll
        for (u32 i = 0; i < kExtent / kLines; i++) {
            copy16_whole(tile + target + i * kLines * kRowBytes, from);
            if (!kTransposed) from += kLines * pitch;
            else if ((i + 1) * kLines % kDepth == 0) from += 64 - (kDepth - kLines) * pitch;
            else from += kLines * pitch;
        }
    }

    /// Starts copying the tile from depth `k` on. Pieces outside the operand become zeros.
    DEVICE void copy(u32 tile, i32 k) const {
#pragma unroll
        for (u32 i = 0; i < kExtent / kLines; i++) {
            // A line is a row, or in panel line / kDepth of 64 rows a k.
            const i32 down = kTransposed ? i * kLines % kDepth : 0, along = kTransposed ? i * kLines / kDepth * 64 : i * kLines;
            const i32 left = kTransposed ? (depth > k + down ? rows - along : 0) : (rows > along ? depth - k : 0);
            const u32 bytes = max(min(left * (i32)sizeof(In), 16), 0);
            const i64 distance = kTransposed ? (k + down) * pitch + along : along * pitch + k;
            copy16_part(tile + target + i * kLines * kRowBytes, source + (bytes ? distance : 0), bytes);
        }
    }
};

/// The A fragments of 16 rows from `row` of a tile, step `step` of 32 bytes along K.
DEVICE void load_a(u32 (&a)[4], u32 tile, u32 row, u32 step) {
    const u32 lane = threadIdx.x & 31;
    if constexpr (A_TRANSPOSED) {
        const u32 k = step * 16 + (lane & 7) + (lane >> 4) * 8, m = row + (lane >> 3 & 1) * 8;
        matrix_load4_transposed(a, tile + m / 64 * (kDepth * kRowBytes) + k * kRowBytes + ((m % 64 / 8 ^ (k & 7)) << 4));
    } else {
        const u32 r = row + (lane & 15), piece = step * 2 + (lane >> 4);
        matrix_load4(a, tile + r * kRowBytes + ((piece ^ (r & 7)) << 4));
    }
}
/// The B fragments of 16 columns: b[0], b[1] of the first 8, b[2], b[3] of the others.
DEVICE void load_b(u32 (&b)[4], u32 tile, u32 col, u32 step) {
    const u32 lane = threadIdx.x & 31;
    if constexpr (B_TRANSPOSED) {
        const u32 k = step * 16 + (lane & 15), n = col + (lane >> 4) * 8;
        matrix_load4_transposed(b, tile + n / 64 * (kDepth * kRowBytes) + k * kRowBytes + ((n % 64 / 8 ^ (k & 7)) << 4));
    } else {
        const u32 r = col + (lane & 7) + (lane >> 4) * 8, piece = step * 2 + (lane >> 3 & 1);
        matrix_load4(b, tile + r * kRowBytes + ((piece ^ (r & 7)) << 4));
    }
}

struct Fragments {
    u32 a[kTilesM][4], b[kTilesN / 2][4];

    DEVICE void load(u32 stage, u32 row, u32 col, u32 step) {
#pragma unroll
        for (u32 i = 0; i < kTilesM; i++) load_a(a[i], stage, row + i * 16, step);
#pragma unroll
        for (u32 j = 0; j < kTilesN / 2; j++) load_b(b[j], stage + kABytes, col + j * 16, step);
    }
    DEVICE void multiply(Acc (&d)[kTilesM][kTilesN][4]) const {
#pragma unroll
        for (u32 i = 0; i < kTilesM; i++) {
#pragma unroll
            for (u32 j = 0; j < kTilesN; j++) warp_mma<IN>(d[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
};

extern "C" __global__ void __launch_bounds__(kThreads, kResident)
SYMBOL(Out* d_out, const In* a_data, const In* b_data, const void* bias, const Out* residual, const float* m_scale,
       const float* n_scale, float* workspace, const __grid_constant__ Problem p) {
    extern __shared__ __align__(1024) u8 shared[];
    const u32 ring = shared_address(shared);
    const u32 span = p.group * p.col_tiles, strip = blockIdx.x / span, first = strip * p.group;
    const u32 height = min(p.row_tiles - first, p.group), inside = blockIdx.x - strip * span;
    const i32 row = (first + inside % height) * BM, col = inside / height * BN;
    const u32 batch = blockIdx.y;
    const Copier<BM, A_TRANSPOSED> a_copier(a_data + batch / p.a_share * p.a_batch, p.a_row, row, p.m, p.k);
    const Copier<BN, B_TRANSPOSED> b_copier(b_data + batch / p.b_share * p.b_batch, p.b_row, col, p.n, p.k);
    const u32 begin = blockIdx.z * p.part_blocks, all = (p.k + kDepth - 1) / kDepth;
    const u32 blocks = begin < all ? min(p.part_blocks, all - begin) : 0;

    dependency_wait();
    const bool is_inside = row + BM <= p.m && col + BN <= p.n;
    auto copy = [&](u32 block) {
        if (block < blocks) {
            const u32 stage = ring + block % STAGES * kStageBytes;
            const i32 k = (begin + block) * kDepth;
            if (is_inside && k + (i32)kDepth <= p.k) {
                a_copier.copy_whole(stage, k);
                b_copier.copy_whole(stage + kABytes, k);
                copy_commit();
                return;
            }
            a_copier.copy(stage, k);
            b_copier.copy(stage + kABytes, k);
        }
        copy_commit();
    };
#pragma unroll
    for (u32 i = 0; i < STAGES - 1; i++) copy(i);

    const u32 warp = threadIdx.x >> 5, warp_row = warp % WARPS_M * kWarpM, warp_col = warp / WARPS_M * kWarpN;
    Acc d[kTilesM][kTilesN][4] = {};
    Fragments fragments[2];
    copy_wait<STAGES - 2>();
    __syncthreads();
    fragments[0].load(ring, warp_row, warp_col, 0);
#pragma unroll 1
    for (u32 block = 0; block < blocks; block++) {
        const u32 stage = ring + block % STAGES * kStageBytes;
#pragma unroll
        for (u32 step = 0; step < 4; step++) {
            // The next step's fragments are on their way while this one's products run.
            if (step < 3) {
                fragments[(step + 1) % 2].load(stage, warp_row, warp_col, step + 1);
            } else {
                copy_wait<STAGES - 2>();
                __syncthreads();
                fragments[0].load(ring + (block + 1) % STAGES * kStageBytes, warp_row, warp_col, 0);
            }
            fragments[step % 2].multiply(d);
            // Behind the first products, which would wait for the addresses otherwise.
            if (step == 0) copy(block + STAGES - 1);
        }
    }
    dependency_launch();
    copy_wait<0>();
    const Tile tile = {row, col, (i32)batch, warp_row, warp_col};
    const Epilogue epilogue = {bias, residual, m_scale, n_scale};
    if (p.flags & kPartial) {
        store_part(d, tile, p, workspace + ((u64)blockIdx.z * p.batches + batch) * p.m * p.n);
    } else {
        __syncthreads();
        store_tile(d, tile, p, epilogue, d_out + batch * p.d_batch, shared);
    }
}

/// Sums the parts of a split in their order, and applies the epilogue. A thread an element; parts are `plane` apart.
extern "C" __global__ void __launch_bounds__(256)
REDUCE(Out* d_out, const float* workspace, const void* bias, const Out* residual, const float* m_scale,
       const float* n_scale, u32 parts, u32 plane, const __grid_constant__ Problem p) {
    const u32 at = blockIdx.x * 256 + threadIdx.x;
    dependency_wait();
    if (at >= plane) return;
    float v = 0.f;
    for (u32 part = 0; part < parts; part++) v += workspace[(u64)part * plane + at];
    const i32 n = at % p.n, m = at / p.n % p.m;
    const i64 batch = at / p.n / p.m;
    const Epilogue epilogue = {bias, residual, m_scale, n_scale};
    store_one(d_out + batch * p.d_batch + m * p.d_row + n, finish(epilogue, p, v, m, n, batch));
}
