//! End of a product: scales, bias, activation and residual on the accumulators, and their way to D through shared memory.

// Templates, so that only the one for the type of D is compiled.
template <class T> DEVICE float widen(const T* p) {
    if constexpr (sizeof(T) == 4) return (float)*p;
    else return low2<Out2>(*p);
}
template <class T> DEVICE void store_one(T* p, float v) {
    if constexpr (sizeof(T) == 4) *p = (T)v;
    else *p = (T)pack2<Out2>(v, 0.f);
}

DEVICE float bias_at(const Epilogue& e, const Problem& p, i32 n) {
    return p.flags & kBiasF32 ? ((const float*)e.bias)[n] : widen((const Out*)e.bias + n);
}

/// The whole epilogue for one element of D inside its extents.
DEVICE float finish(const Epilogue& e, const Problem& p, float v, i32 m, i32 n, i64 batch) {
    v *= p.alpha;
    if (e.m_scale) v *= e.m_scale[m];
    if (e.n_scale) v *= e.n_scale[n];
    if (e.bias) v += bias_at(e, p, n);
    v = activate(v, p.flags & kActivationMask);
    if (e.residual) v += p.beta * widen(e.residual + batch * p.residual_batch + m * p.residual_row + n);
    return v;
}

/// Calls `f(first of two neighbouring sums, row, column)`, both counted from the tile's first, for all of a lane.
template <class F> DEVICE void each_pair(Acc (&d)[kTilesM][kTilesN][4], const Tile& tile, F f) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (u32 i = 0; i < kTilesM; i++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
#pragma unroll
            for (u32 j = 0; j < kTilesN; j++) {
                f(d[i][j] + half * 2, tile.warp_row + i * 16 + half * 8 + lane / 4, tile.warp_col + j * 8 + 2 * (lane & 3));
            }
        }
    }
}

DEVICE u32 bits_of(float v) { return __float_as_uint(v); }
DEVICE u32 bits_of(i32 v) { return v; }

/// 16 bytes of D from sums without an epilogue.
template <class T> DEVICE uint4 piece_of(const Acc* v) {
    if constexpr (kIsSum<T>) {
        return *(const uint4*)v;
    } else if constexpr (sizeof(typename T::Bits) == 4) {
        return make_uint4(bits_of((float)v[0]), bits_of((float)v[1]), bits_of((float)v[2]), bits_of((float)v[3]));
    } else {
        return make_uint4(pack2<Out2>(v[0], v[1]), pack2<Out2>(v[2], v[3]), pack2<Out2>(v[4], v[5]), pack2<Out2>(v[6], v[7]));
    }
}

/// Sums of a part of the depth, as they are.
DEVICE void store_part(Acc (&d)[kTilesM][kTilesN][4], const Tile& tile, const Problem& p, float* part) {
    each_pair(d, tile, [&](const Acc* v, u32 row, u32 col) {
        const i32 m = tile.row + row, n = tile.col + col;
        if (m >= p.m) return;
        if (n < p.n) part[(i64)m * p.n + n] = (float)v[0];
        if (n + 1 < p.n) part[(i64)m * p.n + n + 1] = (float)v[1];
    });
}

/// The sums go to shared memory, and from there through the epilogue to D, a thread a piece of 16 bytes.
DEVICE void store_tile(Acc (&d)[kTilesM][kTilesN][4], const Tile& tile, const Problem& p, const Epilogue& e, Out* out,
                       u8* shared) {
    each_pair(d, tile, [&](const Acc* v, u32 row, u32 col) {
        u32* to = (u32*)(shared + row * kSumRow) + col;
        *(uint2*)to = make_uint2(bits_of(v[0]), bits_of(v[1]));
    });
    __syncthreads();
    constexpr u32 kElements = 16 / sizeof(Out), kPieces = BN / kElements;
    const bool is_plain =
        kIsSum<OUT> || (!e.bias && !e.residual && !e.m_scale && !e.n_scale && !(p.flags & kActivationMask) && p.alpha == 1.f);
#pragma unroll 1
    for (u32 at = threadIdx.x; at < BM * kPieces; at += kThreads) {
        const u32 row = at / kPieces, col = at % kPieces * kElements;
        const i32 m = tile.row + row, n = tile.col + col;
        if (m >= p.m || n >= p.n) continue;
        const Acc* from = (const Acc*)(shared + row * kSumRow) + col;
        Out* to = out + m * p.d_row + n;
        if (is_plain && !(p.flags & kStoreElements)) {
            *(uint4*)to = piece_of<OUT>(from);
            continue;
        }
#pragma unroll 1
        for (u32 i = 0; i < kElements && n + (i32)i < p.n; i++) {
            if constexpr (kIsSum<OUT>) to[i] = from[i];
            else store_one(to + i, is_plain ? (float)from[i] : finish(e, p, (float)from[i], m, n + i, tile.batch));
        }
    }
}
