//! Packs of neighbouring elements in registers: as they lie in memory, opened to numbers, and closed again.

// A pack as it lies in memory. 16 bytes stay four words, so that they stay four registers.
template <class S, int V, bool IS_WIDE = sizeof(S) * V == 16> struct Raw {
    Pack<S, V> pack;

    __device__ __forceinline__ S at(int i) const { return pack.at[i]; }
};
template <class S, int V> struct Raw<S, V, true> {
    Pack<u32, 4> pack;

    Raw() = default;
    __device__ __forceinline__ Raw(const Pack<S, V> &elements) {
        _Pragma("unroll") for (int i = 0; i < 4; i++) pack.at[i] = words(elements.at, i);
    }
    static __device__ __forceinline__ u32 words(const float *from, int i) { return __float_as_uint(from[i]); }
    template <class H> static __device__ __forceinline__ u32 words(const H *from, int i) {
        return from[2 * i].bits | (u32)from[2 * i + 1].bits << 16;
    }

    __device__ __forceinline__ S at(int i) const { return element(i, (S *)0); }
    __device__ __forceinline__ float element(int i, float *) const { return __uint_as_float(pack.at[i]); }
    __device__ __forceinline__ f16 element(int i, f16 *) const { return f16{half_word(i)}; }
    __device__ __forceinline__ bf16 element(int i, bf16 *) const { return bf16{half_word(i)}; }
    __device__ __forceinline__ u16 half_word(int i) const { return (u16)(pack.at[i / 2] >> i % 2 * 16); }
};
template <class S, int V> __device__ __forceinline__ Raw<S, V> load_raw(const S *from) {
    return *(const Raw<S, V> *)from;
}

// One element again and again.
template <class S, int V> __device__ __forceinline__ Raw<S, V> repeated(S one) {
    Pack<S, V> pack;
    _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = one;
    return Raw<S, V>{pack};
}

template <class T, class S, int V> __device__ __forceinline__ void open_pack(T (&to)[V], const Raw<S, V> &raw) {
    _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = widen<T>(raw.at(i));
}

template <class T, class S, int V> __device__ __forceinline__ void write_pack(S *to, const T (&x)[V]) {
    Pack<S, V> pack;
    _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = Narrow<S>::from(x[i]);
    *(Pack<S, V> *)to = pack;
}
