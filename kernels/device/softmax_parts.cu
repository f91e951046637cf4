//! Softmax of rows that several blocks share: each holds a part and finds out the row's maximum and sum from all.

// A mass as a number whose halves are not 0; NaNs are alike.
__device__ __forceinline__ u32 sent_half(float v) { return (v == v ? __float_as_uint(v) : 0x7fc00000u) + 1; }
__device__ __forceinline__ u64 sent(Mass<float> mass) { return (u64)sent_half(mass.sum) << 32 | sent_half(mass.top); }
__device__ __forceinline__ Mass<float> received(u64 word) {
    return {__uint_as_float((u32)word - 1), __uint_as_float((u32)(word >> 32) - 1)};
}

// What the blocks of a row share, all 0 before and after a launch.
struct SharedRow {
    volatile u64 *masses; // of each block, as sent
    u32 *counts;          // blocks that came, plus 2^16 for each that left; how often blocks did not wait
    u32 parts;
};

// What a block finds out about the others.
#define PARTS_NOT_ALL 0 // some have not come: the last one writes for this one
#define PARTS_ALL 1     // each writes what it holds
#define PARTS_LAST 2    // this one is the last, and others have not waited: it writes the whole row

// The masses that have come, joined over the lanes of a wave; true when none is missing.
template <class S> __device__ __forceinline__ bool receive(Mass<float> &all, const SharedRow &row) {
    float missing = 0.0f;
    all = {lowest<float>(), 0.0f};
    for (u32 i = threadIdx.x % WAVE; i < row.parts; i += WAVE) {
        u64 word = 0;
        for (u32 polls = 0; polls < 1000 && ((u32)word == 0 || word >> 32 == 0); polls++) word = row.masses[i];
        if ((u32)word == 0 || word >> 32 == 0) missing = 1.0f;
        else all = join<S>(all, received(word));
    }
    _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1)
        all = join<S>(all, Mass<float>{exchange(all.top, mask), exchange(all.sum, mask)});
    return over_lanes<WAVE>(missing, Greater()) == 0.0f;
}

// The first wave of each block of a row meets the others: `mass` of its part becomes that of the row. None waits for ever:
// where blocks run one after the other, the last one does the writing. The result is that of thread 0.
template <class S> __device__ __forceinline__ u32 meet(Mass<float> &mass, const SharedRow &row, u32 part) {
    bool is_first = threadIdx.x == 0;
    u32 earlier = 0;
    if (is_first) {
        row.masses[part] = sent(mass);
        earlier = atomicAdd(row.counts, 1u) & 0xffff;
    }
    while (!receive<S>(mass, row)) {
        float is_early = 0.0f;
        if (is_first) {
            atomicAdd(row.counts + 1, 1u);
            __threadfence();
            is_early = (atomicAdd(row.counts, 0u) & 0xffff) < row.parts ? 1.0f : 0.0f;
        }
        // The masses of those that have come are seen in the end.
        if (over_lanes<WAVE>(is_early, Greater()) != 0.0f) return PARTS_NOT_ALL;
    }
    if (is_first && earlier + 1 == row.parts) {
        __threadfence();
        if (atomicAdd(row.counts + 1, 0u) > 0) return PARTS_LAST;
    }
    return PARTS_ALL;
}

// The last block to leave a row clears it for the next launch.
__device__ __forceinline__ void leave(const SharedRow &row) {
    if (atomicAdd(row.counts, 0x10000u) >> 16 != row.parts - 1) return;
    row.counts[0] = row.counts[1] = 0;
    for (u32 i = 0; i < row.parts; i++) row.masses[i] = 0;
}

// A block holds PART_THREADS * R packs. Blocks: the parts of a row, one row after the other.
template <class S, int V, int R>
__device__ __forceinline__ void softmax_parts(S *to, u64 *masses, u32 *counts, const S *from, u32 parts, u32 columns,
                                              u32 is_log) {
    constexpr int WAVES = PART_THREADS / WAVE;
    __shared__ Mass<float> of_waves[WAVES], row_mass;
    __shared__ u32 state;
    begin_kernel();
    RowPart<S, V, R, PART_THREADS> own;
    u32 row = blockIdx.x / parts, part = blockIdx.x - row * parts, begin = part * PART_THREADS * V * R;
    const S *source = from + (i64)row * columns;
    S *target = to + (i64)row * columns;
    own.read(source + begin, columns - begin);
    Mass<float> mass = own.mass();
    if (threadIdx.x % WAVE == 0) of_waves[threadIdx.x / WAVE] = mass;
    __syncthreads();
    SharedRow shared = {masses + (i64)row * parts, counts + row * 2, parts};
    if (threadIdx.x < WAVE) {
        mass = joined<WAVES, S>(of_waves[threadIdx.x % WAVES]);
        u32 found = parts > 1 ? meet<S>(mass, shared, part) : PARTS_ALL;
        if (threadIdx.x == 0) row_mass = mass, state = found;
    }
    __syncthreads();
    Share<S, float> share(row_mass, is_log);
    if (state == PARTS_ALL) {
        own.write(target + begin, share);
    } else if (state == PARTS_LAST) {
        float x[V];
        for (u32 column = threadIdx.x * V; column < columns; column += PART_THREADS * V) {
            open_pack<float, S, V>(x, load_raw<S, V>(source + column));
            share.apply(x);
            write_pack<float, S, V>(target + column, x);
        }
    }
    if (parts > 1 && threadIdx.x == 0) leave(shared);
}

#define SOFTMAX_PARTS(SUFFIX, S, V, R)                                                                            \
    extern "C" __global__ void __launch_bounds__(PART_THREADS, 1024 / PART_THREADS)                               \
        softmax_parts_##SUFFIX##_v##V##x##R(void *to, void *masses, void *counts, const void *from, u32 parts,    \
                                            u32 columns, u32 is_log) {                                            \
        softmax_parts<S, V, R>((S *)to, (u64 *)masses, (u32 *)counts, (const S *)from, parts, columns, is_log);   \
    }
SOFTMAX_PARTS(f32, float, 4, 2)
SOFTMAX_PARTS(f32, float, 4, 8)
SOFTMAX_PARTS(f32, float, 1, 8)
SOFTMAX_PARTS(f16, f16, 8, 2)
SOFTMAX_PARTS(f16, f16, 8, 8)
SOFTMAX_PARTS(f16, f16, 1, 8)
SOFTMAX_PARTS(bf16, bf16, 8, 2)
SOFTMAX_PARTS(bf16, bf16, 8, 8)
SOFTMAX_PARTS(bf16, bf16, 1, 8)
