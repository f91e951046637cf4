//! Matrix product: the kernel. One thread loads P, one Q; warpgroups compute and write. See `matmul_tile.cuh`.

// ---- Loading -----------------------------------------------------------------------------------------------------

/// Loads this block's share of an operand's stage, into every block that needs it. `kExtent`: rows of the operand's tile;
/// `kShares`: blocks that load a part each; `kPitch`: distance of their ranks; `kPiece`: rows that come from `map` and from
/// `second` by turns, or 0 where all are of `map`.
template <u32 kExtent, u32 kShares, u32 kPitch, bool kTransposed, u32 kPiece>
DEVICE void load_operand(u8* tile, const TensorMap* map, const TensorMap* second, u64* full, u32 share, u32 first_rank,
                         i32 row, u32 block, i32 batch, u64 cache) {
    constexpr u32 kPart = kExtent / kShares, kRun = kPiece && kPiece < kPart ? kPiece : kPart;
    constexpr u32 kBox = kTransposed ? 64 : kRun;
    static_assert(kPart % kBox == 0 && (kPiece == 0 || kPiece % kBox == 0), "a copy is of one matrix");
    u16 mask = 0;
#pragma unroll
    for (u32 i = 0; i < kShares; i++) mask |= 1 << (first_rank + i * kPitch);
    const u32 start = share * kPart;
#pragma unroll
    for (u32 box = 0; box < kPart / kBox; box++) {
        const u32 at = start + box * kBox;
        u8* part = tile + at * kRowBytes;
        const TensorMap* from = map;
        i32 first = row + at;
        if constexpr (kPiece > 0) {
            const u32 piece = at / kPiece;
            if (piece & 1) from = second;
            first = row + piece / 2 * kPiece + at % kPiece;
        }
        const i32 x = kTransposed ? first : block * kDepth, y = kTransposed ? block * kDepth : first;
        if constexpr (kShares > 1) {
            tensor_load_multicast(part, from, full, x, y, batch, mask, cache);
        } else {
            tensor_load(part, from, full, x, y, batch, cache);
        }
    }
}

#if WINDOWS
/// Loads the windows of a tile's positions, one tap and a block of its channels after the other.
struct Gather {
    const Window& window;
    i32 x, y;
    u32 channels, tap_x, tap_y;

    DEVICE Gather(const Window& window, i32 position, u32 block) : window(window) {
        const i32 row = position / (i32)window.out_width;
        x = (position - row * (i32)window.out_width) * window.step_x + window.first_x;
        y = row * window.step_y + window.first_y;
        const u32 tap = block / window.channel_blocks;
        channels = block - tap * window.channel_blocks;
        tap_y = tap / window.kernel_width, tap_x = tap - tap_y * window.kernel_width;
    }

    DEVICE void load(u8* tile, const TensorMap* map, u64* full, i32 image) {
        tensor_load_windows(tile, map, full, channels * kDepth, x, y, image, tap_x * window.dilation_x,
                            tap_y * window.dilation_y, kQCache);
        if (++channels < window.channel_blocks) return;
        channels = 0;
        if (++tap_x == window.kernel_width) tap_x = 0, tap_y++;
    }
};
#endif

/// Loads the records of a tile's rows; those behind the last are the last again.
DEVICE void load_records(u8* tile, const u8* source, const Packed& packed, u64* full, i32 row, u32 block, u32 blocks) {
#pragma unroll
    for (u32 i = 0; i < BM / 64; i++) {
        const u32 slab = min((u32)row / 64 + i, packed.slabs - 1);
        const u8* record = source + ((u64)slab * blocks + block) * packed.record_bytes;
        bulk_load(tile + i * kRecordBytes, record, packed.record_bytes, full, kPCache);
    }
}

struct Loader {
    u8* shared;
    u64 *full, *empty, *sum_empty;
    /// A tensor map, or records.
    const void* source;
    const TensorMap* up_map;
    const Packed& packed;
    const Problem& problem;
    Place at;
    const Window* window;

    /// Loads one operand for all tiles. P and Q have a thread each, so that an operand that no kernel before this one
    /// writes does not wait for the other.
    template <bool kIsP> DEVICE void run(u32 first, u32 step, u32 tiles) const {
        if (!(problem.flags & (kIsP ? kPConstant : kQConstant))) dependency_wait();
        const u32 begin = depth_begin(problem, at.k), end = depth_begin(problem, at.k + 1);
        const TensorMap* map = (const TensorMap*)source;
        const u32 p_bytes = kIsPacked ? BM / 64 * packed.record_bytes : kPBytes;
        u32 stage = 0, parity = 1, turn = 1;
        for (u32 index = first; index < tiles; index += step, turn ^= 1) {
            const Tile tile = tile_at(problem, at, index);
            if (CLUSTER_K > 1) barrier_wait_cluster(sum_empty, turn);
#if WINDOWS
            Gather gather(*window, tile.col, begin);
#endif
            for (u32 block = begin; block < end; block++) {
                barrier_wait(empty + stage, parity);
                barrier_expect(full + stage, kIsP ? p_bytes : kQBytes);
                if constexpr (kIsP && kIsPacked) {
                    load_records(shared + stage * kPBytes, (const u8*)source, packed, full + stage, tile.row, block,
                                 problem.depth_blocks);
                } else if constexpr (kIsP) {
                    load_operand<BM, CLUSTER_N, CLUSTER_M, P_TRANSPOSED, kPPiece>(
                        shared + stage * kPBytes, map, up_map, full + stage, at.n, at.rank - at.n * CLUSTER_M, tile.row,
                        block, tile.batch / (i32)problem.p_share, kPCache);
                } else {
#if WINDOWS
                    gather.load(shared + kQOffset + stage * kQBytes, map, full + stage, tile.batch);
#else
#pragma unroll
                    for (u32 half = 0; half < kHalves; half++) {
                        load_operand<BN, CLUSTER_M, 1, Q_TRANSPOSED, kQPiece>(
                            shared + kQOffset + stage * kQBytes + half * (BN * kRowBytes), map, up_map, full + stage,
                            at.m, at.rank - at.m, tile.col, block * kHalves + half, tile.batch / (i32)problem.q_share,
                            kQCache);
                    }
#endif
                }
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
        }
        dependency_launch();
    }
};

// ---- Computing ---------------------------------------------------------------------------------------------------

struct Consumer {
    u8* shared;
    u64 *full, *empty;
    Place at;
    u32 group;

    /// Tells every block that loads into this one that the warpgroup has read a stage.
    DEVICE void release(u32 stage) const {
        const u32 thread = threadIdx.x & 127;
        if (thread >= kPeers) return;
        if (kPeers == 1) return barrier_arrive(empty + stage);
        const u32 other = thread - CLUSTER_M;
        const u32 rank = thread < CLUSTER_M ? at.rank - at.m + thread
                                            : at.rank + ((other + (other >= at.n)) - at.n) * CLUSTER_M;
        barrier_arrive_remote(empty + stage, rank);
    }

    /// Sums `count` blocks of depth into d. One group of products stays in flight while the next stage is awaited.
    DEVICE void multiply(typename Mma::Acc (&d)[kStack][BN / 2], u32 count, u32& stage, u32& parity) const {
        const u8* p_tile = shared + group * kStack * 64 * kRowBytes;
        const u64 p_first = P_TRANSPOSED ? wgmma_descriptor_mn(p_tile, 8192) : wgmma_descriptor<kRowBytes>(p_tile);
        const u64 q_first = Q_TRANSPOSED ? wgmma_descriptor_mn(shared + kQOffset, 8192)
                                         : wgmma_descriptor<kRowBytes>(shared + kQOffset);
        u32 previous = 0;
#pragma unroll 1
        for (u32 block = 0; block < count; block++) {
            barrier_wait(full + stage, parity);
            const u64 p = p_first + stage * (kPBytes / 16), q = q_first + stage * (kQBytes / 16);
            wgmma_fence();
#pragma unroll
            for (u32 k = 0; k < kRowBytes / 32; k++) {
#pragma unroll
                for (u32 s = 0; s < kStack; s++) {
                    Mma::ss(d[s], p + s * (kRowBytes * 4) + k * (P_TRANSPOSED ? 128 : 2), q + k * (Q_TRANSPOSED ? 128 : 2), block | k);
                }
            }
            wgmma_commit();
            wgmma_wait<1>();
            if (block > 0) release(previous);
            previous = stage;
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        release(previous);
    }
};

extern "C" __global__ void __launch_bounds__(kThreads, kResident)
SYMBOL(P_PARAMETER, const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap d_map, Out* d_out,
       const void* bias, const Out* residual, const float* m_scale, const float* n_scale,
       const __grid_constant__ Problem problem PACKED_PARAMETER UP_PARAMETER WINDOW_PARAMETER) {
    extern __shared__ __align__(1024) u8 shared[];
#if WEIGHT_BITS
    const void* p_operand = p_source;
#else
    const void* p_operand = &p_source;
    const Packed packed = {};
#endif
#if GATED
    const TensorMap* up = &up_map;
#else
    const TensorMap* up = nullptr;
#endif
#if WINDOWS
    const Window* windows = &window;
#else
    const Window* windows = nullptr;
#endif
    u64* full = (u64*)(shared + kBarrierOffset);
    u64 *empty = full + STAGES, *sum_full = empty + STAGES, *sum_empty = sum_full + 1;
    const Place at = place();
    const u32 first = blockIdx.x / kCluster, step = gridDim.x / kCluster;
    const u32 tiles = problem.row_tiles * problem.col_tiles * problem.batches;

    if (threadIdx.x == 0) {
        if (!kIsPacked) tensor_prefetch_map((const TensorMap*)p_operand);
        tensor_prefetch_map(&q_map);
        for (u32 i = 0; i < STAGES; i++) {
            barrier_init(full + i, 2);
            barrier_init(empty + i, kPeers * WARPGROUPS);
        }
        barrier_init(sum_full, CLUSTER_K);
        barrier_init(sum_empty, CLUSTER_K);
        barrier_init_fence();
    }
    if (kCluster > 1) {
        cluster_arrive_relaxed();
        cluster_wait();
    } else {
        __syncthreads();
    }

    if (problem.flags & kLaunchEarly) dependency_launch();
    constexpr bool kMovesRegisters = kResident == 1 && WARPGROUPS > 1;
    if (threadIdx.x < 128) {
        if constexpr (kMovesRegisters) release_registers<WARPGROUPS == 2 ? 40 : WARPGROUPS == 3 ? 32 : 24>();
        if (threadIdx.x == 0) {
            Loader{shared, full, empty, sum_empty, p_operand, up, packed, problem, at, windows}.run<true>(first, step, tiles);
        } else if (threadIdx.x == 32) {
            Loader{shared, full, empty, sum_empty, &q_map, up, packed, problem, at, windows}.run<false>(first, step, tiles);
        }
        __syncwarp();
    } else {
        if constexpr (kMovesRegisters) acquire_registers<WARPGROUPS == 2 ? 232 : WARPGROUPS == 3 ? 160 : 112>();
        const u32 group = uniform((threadIdx.x >> 7) - 1);
        const Epilogue epilogue = {bias, residual, m_scale, n_scale};
        const Consumer consumer = {shared, full, empty, at, group};
        const Writer writer = {shared, &d_map, d_out, problem, epilogue, group};
        const u32 count = depth_begin(problem, at.k + 1) - depth_begin(problem, at.k);
        u32 stage = 0, parity = 0, turn = 0;
        dependency_wait();
        for (u32 index = first; index < tiles; index += step, turn ^= 1) {
            const Tile tile = tile_at(problem, at, index);
            typename Mma::Acc sums[kStack][BN / 2];
#if WEIGHT_BITS
            multiply_packed(consumer, packed, sums, count, stage, parity);
#else
            consumer.multiply(sums, count, stage, parity);
#endif
            Tile32& d = carried(sums);
            if constexpr (CLUSTER_K > 1) {
                writer.write_split(d, tile, at, sum_full, sum_empty, turn);
            } else {
                writer.write(d, tile);
            }
        }
        if ((threadIdx.x & 127) == 0) store_wait_read<0>();
        __syncwarp();
    }
    if (kCluster > 1) cluster_sync();
}
