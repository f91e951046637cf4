//! The frame of kernels that work on rows: the threads of a row, and what they hold of it.

// A value combined over LANES neighbouring threads of a wave, known to all of them.
template <int LANES, class T, class F> __device__ __forceinline__ T over_lanes(T v, F combine) {
    _Pragma("unroll") for (int mask = LANES / 2; mask > 0; mask >>= 1) v = combine(v, exchange(v, mask));
    return v;
}

// The same over the LANES threads of a row, be they part of a wave or the whole block. Two buffers take turns, so that one
// barrier is enough.
template <class T, int LANES> struct RowJoint {
    static constexpr int WAVES = LANES > WAVE ? LANES / WAVE : 1;
    T (&space)[2][WAVES];
    u32 turn;

    template <class F> __device__ __forceinline__ T over(T v, F combine) {
        v = over_lanes<(LANES < WAVE ? LANES : WAVE)>(v, combine);
        if (WAVES == 1) return v;
        T *own = space[turn];
        turn ^= 1;
        if (threadIdx.x % WAVE == 0) own[threadIdx.x / WAVE] = v;
        __syncthreads();
        return over_lanes<WAVES>(own[threadIdx.x % WAVES], combine);
    }
};

// What a thread holds of a row: R packs of V elements, LANES packs apart. Packs behind the end are not to be looked at.
template <class S, int V, int R, int LANES> struct HeldRow {
    Raw<S, V> at[R];

    static __device__ __forceinline__ u32 column(int r) { return (r * LANES + threadIdx.x % LANES) * V; }

    __device__ __forceinline__ void read(const S *row, u32 columns) {
        _Pragma("unroll") for (int r = 0; r < R; r++)
            if (column(r) < columns) at[r] = load_raw<S, V>(row + column(r));
    }
};
