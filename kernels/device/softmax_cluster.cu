//! Softmax of long rows on devices whose neighbouring blocks run together and write to each other's shared memory.

// A cluster a row: each block holds `part_columns` of it, the last one what is left, in THREADS * CLUSTER_READS packs.
template <class S, int V, int THREADS>
__device__ __forceinline__ void softmax_cluster(S *to, const S *from, u32 columns, u32 part_columns,
                                                bool is_log) {
    constexpr int WAVES = THREADS / WAVE;
    __shared__ __align__(8) Mass<float> masses[CLUSTER_BLOCKS * WAVES];
    begin_kernel();
    RowPart<S, V, CLUSTER_READS, THREADS> own;
    u32 parts = cluster_blocks(), part = cluster_rank(), begin = part * part_columns;
    i64 place = (i64)(blockIdx.x / parts) * columns + begin;
    own.read(from + place, columns - begin < part_columns ? columns - begin : part_columns);
    // A block's shared memory may be written once it has begun.
    cluster_arrive();
    Mass<float> mass = own.mass();
    cluster_wait();
    u32 lane = threadIdx.x % WAVE, wave = threadIdx.x / WAVE;
    if (lane < parts) cluster_put(&masses[part * WAVES + wave], lane, mass.top, mass.sum);
    cluster_arrive();
    cluster_wait();
    mass = {lowest<float>(), 0.0f};
    for (u32 i = lane; i < parts * WAVES; i += WAVE) mass = join<S>(mass, masses[i]);
    own.write(to + place, Share<S, float>(joined<WAVE, S>(mass), is_log));
}

#define SOFTMAX_CLUSTER(NAME, SUFFIX, S, V, THREADS, BLOCKS, IS_LOG)                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME##_cluster##THREADS##_##SUFFIX##_v##V(     \
        void *to, const void *from, u32 columns, u32 part_columns) {                                             \
        softmax_cluster<S, V, THREADS>((S *)to, (const S *)from, columns, part_columns, IS_LOG);                 \
    }
#define SOFTMAX_CLUSTERS(NAME, SUFFIX, S, V, IS_LOG)      \
    SOFTMAX_CLUSTER(NAME, SUFFIX, S, V, 256, 4, IS_LOG)   \
    SOFTMAX_CLUSTER(NAME, SUFFIX, S, V, 512, 2, IS_LOG)   \
    SOFTMAX_CLUSTER(NAME, SUFFIX, S, V, 1024, 1, IS_LOG)
SOFTMAX_CLUSTERS(softmax, f32, float, 4, false)
SOFTMAX_CLUSTERS(softmax, f16, f16, 8, false)
SOFTMAX_CLUSTERS(softmax, bf16, bf16, 8, false)
SOFTMAX_CLUSTERS(log_softmax, f32, float, 4, true)
SOFTMAX_CLUSTERS(log_softmax, f16, f16, 8, true)
SOFTMAX_CLUSTERS(log_softmax, bf16, bf16, 8, true)
