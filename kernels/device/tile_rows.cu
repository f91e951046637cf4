//! Rows too short for a wave each: many together between global and shared memory.

// Elements [0, count) between global and shared memory, in packs; 256 threads. Both sides begin with a whole pack.
template <class S, int V> __device__ __forceinline__ void move_tile(S *to, const S *from, u32 count) {
    u32 whole = count / V * V;
    _Pragma("unroll 4") for (u32 at = threadIdx.x * V; at < whole; at += 256 * V)
        *(Pack<S, V> *)(to + at) = load_pack<S, V>(from + at);
    for (u32 at = whole + threadIdx.x; at < count; at += 256) to[at] = from[at];
}
