//! What the kernels of softmax share: exponentials, masses of elements, and how elements become results.

__device__ __forceinline__ float r_log(float x) { return logf(x); }
__device__ __forceinline__ double r_log(double x) { return log(x); }

template <class T> __device__ __forceinline__ T lowest() { return -(T)__uint_as_float(0x7f800000u); }

// Exponentials e^(x - top), as precisely as results of type S need them; where there is nothing but minus infinity so far, no
// distance to the top is a number, and they are 0.
template <class S> struct Exponential {
    static constexpr float LOG2_E = 1.44269504f;

    // What stands for a top.
    static __device__ __forceinline__ float origin(float top) {
        float from = top == lowest<float>() ? 0.0f : top;
        return sizeof(S) == 2 ? from * LOG2_E : from;
    }
    static __device__ __forceinline__ double origin(double top) { return top == lowest<double>() ? 0.0 : top; }
    static __device__ __forceinline__ float of(float x, float origin) {
        return sizeof(S) == 2 ? exp2_normal(fmaf(x, LOG2_E, -origin)) : expf(x - origin);
    }
    static __device__ __forceinline__ double of(double x, double origin) { return exp(x - origin); }
};

// The largest of some elements, and the sum of exponentials of their distances to it.
template <class T> struct Mass {
    T top, sum;
};

template <class S, class T> __device__ __forceinline__ Mass<T> join(Mass<T> a, Mass<T> b) {
    typedef Exponential<S> E;
    T top = a.top > b.top ? a.top : b.top, origin = E::origin(top);
    return {top, a.sum * E::of(a.top, origin) + b.sum * E::of(b.top, origin)};
}

// How elements become results: exponentials of distances to the top times a factor or, for the logarithm, distances and a term.
template <class S, class T> struct Share {
    T top, origin, rest;
    u32 is_log;

    __device__ __forceinline__ Share(Mass<T> mass, u32 is_log)
        : top(mass.top), origin(Exponential<S>::origin(mass.top)), is_log(is_log) {
        T sum = mass.sum + (mass.top - mass.top); // infinities make the row NaN
        rest = is_log ? -r_log(sum) : (T)1 / sum;
    }
    // The result of an element whose exponential, or whose distance to the top for the logarithm, is known.
    __device__ __forceinline__ T end(T begun) const { return is_log ? begun + rest : begun * rest; }

    // Elements become results.
    template <int V> __device__ __forceinline__ void apply(T (&x)[V]) const {
        if (is_log) {
            _Pragma("unroll") for (int i = 0; i < V; i++) x[i] = x[i] - top + rest;
        } else {
            _Pragma("unroll") for (int i = 0; i < V; i++) x[i] = Exponential<S>::of(x[i], origin) * rest;
        }
    }
};

// Writes a pack in one store: among many of them the compiler takes some apart.
template <class S, int V> __device__ __forceinline__ void store_whole(S *to, const Raw<S, V, false> &raw) {
    *(Raw<S, V> *)to = raw;
}
template <class S, int V> __device__ __forceinline__ void store_whole(S *to, const Raw<S, V, true> &raw) {
    store_words(to, raw.pack.at[0], raw.pack.at[1], raw.pack.at[2], raw.pack.at[3]);
}

// The masses of LANES neighbouring threads of a wave, joined: known to all of them.
template <int LANES, class S> __device__ __forceinline__ Mass<float> joined(Mass<float> own) {
    float top = over_lanes<LANES>(own.top, Greater());
    return {top, over_lanes<LANES>(own.sum * Exponential<S>::of(own.top, Exponential<S>::origin(top)), Added())};
}

// A part of a row in the registers of a block: of each thread R packs of V elements, THREADS packs apart.
template <class S, int V, int R, int THREADS> struct RowPart {
    typedef Exponential<S> E;
    HeldRow<S, V, R, THREADS> held;
    u32 columns;

    __device__ __forceinline__ void read(const S *from, u32 part_columns) {
        columns = part_columns;
        held.read(from, columns);
    }
    // The mass of what a wave's threads hold.
    __device__ __forceinline__ Mass<float> mass() const {
        float x[V], top = lowest<float>(), sum = 0.0f;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (held.column(r) >= columns) continue;
            open_pack<float, S, V>(x, held.at[r]);
            _Pragma("unroll") for (int i = 0; i < V; i++) top = fmaxf(top, x[i]);
        }
        top = over_lanes<WAVE>(top, Greater());
        float origin = E::origin(top);
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (held.column(r) >= columns) continue;
            open_pack<float, S, V>(x, held.at[r]);
            _Pragma("unroll") for (int i = 0; i < V; i++) sum += E::of(x[i], origin);
        }
        return {top, over_lanes<WAVE>(sum, Added())};
    }
    __device__ __forceinline__ void write(S *to, const Share<S, float> &share) const {
        float x[V];
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (held.column(r) >= columns) continue;
            open_pack<float, S, V>(x, held.at[r]);
            share.apply(x);
            Pack<S, V> pack;
            _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = Narrow<S>::from(x[i]);
            store_whole<S, V>(to + held.column(r), Raw<S, V>{pack});
        }
    }
};
