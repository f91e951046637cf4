//! Matrix product: the kernel. One thread loads P, one Q; warpgroups compute and write. See `matmul_tile.cuh`.

// ---- Loading -----------------------------------------------------------------------------------------------------

/// Loads this block's share of an operand's stage, into every block that needs it. `kExtent`: rows of the operand's tile;
/// `kShares`: blocks that load a part each; `kPitch`: distance of their ranks.
template <u32 kExtent, u32 kShares, u32 kPitch, bool kTransposed>
DEVICE void load_operand(u8* tile, const TensorMap* map, u64* full, u32 share, u32 first_rank, i32 row, u32 block,
                         i32 batch, u64 cache) {
    constexpr u32 kPart = kExtent / kShares;
    u16 mask = 0;
#pragma unroll
    for (u32 i = 0; i < kShares; i++) mask |= 1 << (first_rank + i * kPitch);
    const u32 start = share * kPart;
    if constexpr (kTransposed) {
#pragma unroll
        for (u32 panel = 0; panel < kPart / 64; panel++) {
            const u32 at = start + panel * 64;
            u8* part = tile + at * kRowBytes;
            if constexpr (kShares > 1) {
                tensor_load_multicast(part, map, full, row + at, block * kDepth, batch, mask, cache);
            } else {
                tensor_load(part, map, full, row + at, block * kDepth, batch, cache);
            }
        }
    } else if constexpr (kShares > 1) {
        tensor_load_multicast(tile + start * kRowBytes, map, full, block * kDepth, row + start, batch, mask, cache);
    } else {
        tensor_load(tile, map, full, block * kDepth, row, batch, cache);
    }
}

struct Loader {
    u8* shared;
    u64 *full, *empty, *sum_empty;
    const TensorMap* map;
    const Problem& problem;
    Place at;

    /// Loads one operand for all tiles. P and Q have a thread each, so that an operand that no kernel before this one
    /// writes does not wait for the other.
    template <bool kIsP> DEVICE void run(u32 first, u32 step, u32 tiles) const {
        if (!(problem.flags & (kIsP ? kPConstant : kQConstant))) dependency_wait();
        const u32 begin = depth_begin(problem, at.k), end = depth_begin(problem, at.k + 1);
        u32 stage = 0, parity = 1, turn = 1;
        for (u32 index = first; index < tiles; index += step, turn ^= 1) {
            const Tile tile = tile_at(problem, at, index);
            if (CLUSTER_K > 1) barrier_wait(sum_empty, turn);
            for (u32 block = begin; block < end; block++) {
                barrier_wait(empty + stage, parity);
                barrier_expect(full + stage, kIsP ? kPBytes : kQBytes);
                if constexpr (kIsP) {
                    load_operand<BM, CLUSTER_N, CLUSTER_M, P_TRANSPOSED>(
                        shared + stage * kPBytes, map, full + stage, at.n, at.rank - at.n * CLUSTER_M, tile.row, block,
                        tile.batch / (i32)problem.p_share, kPCache);
                } else {
                    load_operand<BN, CLUSTER_M, 1, Q_TRANSPOSED>(
                        shared + kQOffset + stage * kQBytes, map, full + stage, at.m, at.rank - at.m, tile.col, block,
                        tile.batch / (i32)problem.q_share, kQCache);
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
SYMBOL(const __grid_constant__ TensorMap p_map, const __grid_constant__ TensorMap q_map,
       const __grid_constant__ TensorMap d_map, Out* d_out, const void* bias, const Out* residual, const float* m_scale,
       const float* n_scale, const __grid_constant__ Problem problem) {
    extern __shared__ __align__(1024) u8 shared[];
    u64* full = (u64*)(shared + kBarrierOffset);
    u64 *empty = full + STAGES, *sum_full = empty + STAGES, *sum_empty = sum_full + 1;
    const Place at = place();
    const u32 first = blockIdx.x / kCluster, step = gridDim.x / kCluster;
    const u32 tiles = problem.row_tiles * problem.col_tiles * problem.batches;

    if (threadIdx.x == 0) {
        tensor_prefetch_map(&p_map);
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
            Loader{shared, full, empty, sum_empty, &p_map, problem, at}.run<true>(first, step, tiles);
        } else if (threadIdx.x == 32) {
            Loader{shared, full, empty, sum_empty, &q_map, problem, at}.run<false>(first, step, tiles);
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
            consumer.multiply(sums, count, stage, parity);
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
