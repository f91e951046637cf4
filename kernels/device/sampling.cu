//! Choosing tokens from rows of scores.
//!
//! The largest score of a row: blocks find the best of a slice each and leave (score, position); one block then takes the
//! best of those. Of equals the first is chosen.

struct Candidate {
    float score;
    u32 position;
};

__device__ __forceinline__ Candidate better(Candidate a, Candidate b) {
    bool first = a.score > b.score || (a.score == b.score && a.position < b.position) || b.score != b.score;
    return first ? a : b;
}

// The best of what all 256 threads hold, known to all.
__device__ __forceinline__ Candidate best_of_block(Candidate mine) {
    __shared__ Candidate space[256];
    space[threadIdx.x] = mine;
    for (u32 half = 128; half > 0; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) space[threadIdx.x] = better(space[threadIdx.x], space[threadIdx.x + half]);
    }
    __syncthreads();
    return space[0];
}

template <class S, int V>
__device__ __forceinline__ void largest_of_slice(Candidate *to, const S *scores, u32 columns, u32 slice) {
    const S *row = scores + (i64)blockIdx.y * columns;
    u32 begin = blockIdx.x * slice, end = begin + slice < columns ? begin + slice : columns;
    Candidate best = {-__uint_as_float(0x7f800000u), 0xffffffffu};
    for (u32 c = begin + threadIdx.x * V; c < end; c += 256 * V) {
        Pack<S, V> line = *(const Pack<S, V> *)(row + c);
#pragma unroll
        for (int i = 0; i < V; i++) best = better(best, Candidate{widen<float>(line.at[i]), c + i});
    }
    best = best_of_block(best);
    if (threadIdx.x == 0) to[blockIdx.y * gridDim.x + blockIdx.x] = best;
}

#define LARGEST_KERNELS(SUFFIX, S)                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                       \
        largest_of_slice_##SUFFIX##_v1(void *to, const void *scores, u32 columns, u32 slice) {              \
        begin_kernel();                                                                                     \
        largest_of_slice<S, 1>((Candidate *)to, (const S *)scores, columns, slice);                         \
    }                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                       \
        largest_of_slice_##SUFFIX##_v4(void *to, const void *scores, u32 columns, u32 slice) {              \
        begin_kernel();                                                                                     \
        largest_of_slice<S, 4>((Candidate *)to, (const S *)scores, columns, slice);                         \
    }

LARGEST_KERNELS(f32, float)
LARGEST_KERNELS(f16, f16)
LARGEST_KERNELS(bf16, bf16)

extern "C" __global__ void __launch_bounds__(256) largest_of_row(void *to, const void *candidates, u32 count) {
    begin_kernel();
    Candidate best = {-__uint_as_float(0x7f800000u), 0xffffffffu};
    const Candidate *own = (const Candidate *)candidates + (i64)blockIdx.x * count;
    for (u32 i = threadIdx.x; i < count; i += 256) best = better(best, own[i]);
    best = best_of_block(best);
    // A row of nothing but NaN has its first element chosen.
    if (threadIdx.x == 0) ((i64 *)to)[blockIdx.x] = best.position == 0xffffffffu ? 0 : best.position;
}
