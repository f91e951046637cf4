//! End of a matrix product's tile: scales, bias, activation and residual on the accumulators, and their way to D through
//! shared memory, or, where K is split, the sum over the blocks of a cluster.

// Templates, so that only the one for the type of D is compiled.
template <class T> DEVICE float widen(const T* p) {
    if constexpr (sizeof(T) == 4) return *p;
    else return low2<Out2>(*p);
}
template <class T> DEVICE void narrow(T* p, float v) {
    if constexpr (sizeof(T) == 4) *p = v;
    else *p = (u16)pack2<Out2>(v, 0.f);
}
/// `p` aligned to four elements.
template <class T> DEVICE void narrow4(T* p, const float (&v)[4]) {
    if constexpr (sizeof(T) == 4) *(float4*)p = make_float4(v[0], v[1], v[2], v[3]);
    else *(uint2*)p = make_uint2(pack2<Out2>(v[0], v[1]), pack2<Out2>(v[2], v[3]));
}

DEVICE float bias_at(const Epilogue& e, const Problem& p, i32 n) {
    return p.flags & kBiasF32 ? ((const float*)e.bias)[n] : widen((const Out*)e.bias + n);
}

/// Abramowitz and Stegun 7.1.26; absolute error below 2e-7.
DEVICE float erf_approx(float x) {
    const float a = fabsf(x), t = rcp_approx(1.f + 0.3275911f * a);
    float poly = 1.061405429f * t - 1.453152027f;
    poly = ((poly * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f;
    return copysignf(1.f - poly * t * exp2_approx(-1.4426950408889634f * a * a), x);
}

/// v sigmoid(slope (v + cube v^3)): SiLU with slope 1 and cube 0; GELU's tanh form, as 1 + tanh(u) = 2 sigmoid(2 u).
DEVICE float gate(float v, float slope, float cube) {
    return v * rcp_approx(1.f + exp2_approx(-1.4426950408889634f * slope * (v + cube * v * v * v)));
}
DEVICE float gate_slope(u32 activation) { return activation == kSilu ? 1.f : 1.5957691216057308f; }
DEVICE float gate_cube(u32 activation) { return activation == kSilu ? 0.f : 0.044715f; }
DEVICE float gelu(float v) { return 0.5f * v * (1.f + erf_approx(v * 0.7071067811865476f)); }

typedef float Tile32[kStack][BN / 2];

/// Sums as the epilogue takes them, in the same registers: f32, or the bits of integers that are stored as they are.
DEVICE Tile32& carried(float (&sums)[kStack][BN / 2]) { return sums; }
DEVICE Tile32& carried(i32 (&sums)[kStack][BN / 2]) {
#pragma unroll
    for (u32 s = 0; s < kStack; s++) {
#pragma unroll
        for (u32 i = 0; i < BN / 2; i++) {
            if (!kIsInteger) sums[s][i] = __float_as_int((float)sums[s][i]);
        }
    }
    return reinterpret_cast<Tile32&>(sums);
}

/// The whole epilogue for one element of D inside its extents.
DEVICE float finish(const Epilogue& e, const Problem& p, float v, i32 m, i32 n, i32 batch) {
    v *= p.alpha;
    if (e.m_scale) v *= e.m_scale[m];
    if (e.n_scale) v *= e.n_scale[n];
    if (e.bias) v += bias_at(e, p, p.flags & kBiasRows ? m : n);
    const float addend = e.residual ? p.beta * widen(e.residual + batch * p.residual_batch + m * p.residual_row + n) : 0.f;
    if (p.flags & kResidualFirst) v += addend;
    const u32 activation = p.flags & kActivationMask;
    if (activation == kRelu) v = fmaxf(v, 0.f);
    if (activation == kSilu || activation == kGeluTanh) v = gate(v, gate_slope(activation), gate_cube(activation));
    if (activation == kGelu) v = gelu(v);
    return p.flags & kResidualFirst ? v : v + addend;
}

/// Sums of a gate and of what it lets through become elements of D, in the registers of the former.
DEVICE void combine(float (&d)[kStack][BN / 2], const Problem& p) {
    const u32 activation = p.flags & kActivationMask;
    const float slope = gate_slope(activation), cube = gate_cube(activation);
#pragma unroll
    for (u32 s = 0; s < kOutStack; s++) {
#pragma unroll
        for (u32 i = 0; i < kOutCols / 2; i++) {
            const float g = d[s][i] * p.alpha, up = (SWAP ? d[s + kStack - kOutStack][i] : d[s][i + (BN - kOutCols) / 2]) * p.alpha;
            d[s][i] = up * (activation == kGelu ? gelu(g) : activation == kRelu ? fmaxf(g, 0.f) : gate(g, slope, cube));
        }
    }
}

/// Calls `f(value, row, col, offset)` for every element of D in the accumulators, with its place in R and its distance, in
/// elements, from the first element of a matrix that lies as D does with rows `pitch` apart.
template <class F> DEVICE void each(float (&d)[kStack][BN / 2], i32 row, i32 col, i64 pitch, F f) {
    const u32 lane = threadIdx.x & 31;
    row += lane >> 2, col += (lane & 3) << 1;
#pragma unroll
    for (i32 half = 0; half < 2 * kOutStack; half++) {
        const i32 r = row + half * 8 + half / 2 * 48;
        const i64 first = SWAP ? col * pitch + r : r * pitch + col;
#pragma unroll
        for (i32 i = 0; i < kOutCols / 4; i++) {
            const i32 step = i / 2 * 8 + i % 2;
            f(d[half / 2][i / 2 * 4 + half % 2 * 2 + i % 2], r, col + step, first + (SWAP ? step * pitch : (i64)step));
        }
        // Without it the compiler hoists more loads than there are registers.
        compiler_fence();
    }
}

/// Adds a bias along R's rows, of which a thread has few.
DEVICE void add_row_bias(const Epilogue& e, const Problem& p, float (&d)[kStack][BN / 2], i32 row) {
    row += (threadIdx.x & 31) >> 2;
#pragma unroll
    for (i32 half = 0; half < 2 * kOutStack; half++) {
        const i32 r = row + half * 8 + half / 2 * 48;
        const float bias = r < p.rows ? bias_at(e, p, r) : 0.f;
#pragma unroll
        for (i32 i = 0; i < kOutCols / 4; i++) d[half / 2][i / 2 * 4 + half % 2 * 2 + i % 2] += bias;
    }
}

DEVICE void add_residual(const Epilogue& e, const Problem& p, float (&d)[kStack][BN / 2], i32 row, i32 col, i32 batch) {
    const Out* base = e.residual + batch * p.residual_batch;
    each(d, row, col, p.residual_row, [&](float& v, i32 r, i32 c, i64 offset) {
        if (r < p.rows && c < p.cols) v += p.beta * widen(base + offset);
    });
}

/// The epilogue on accumulators, one pass for each part that the problem has. `row`: the warp's first row of R.
DEVICE void finish_all(const Epilogue& e, const Problem& p, float (&d)[kStack][BN / 2], i32 row, i32 col, i32 batch) {
    if (p.alpha != 1.f) each(d, row, col, 0, [&](float& v, i32, i32, i64) { v *= p.alpha; });
    const float *row_scale = SWAP ? e.n_scale : e.m_scale, *col_scale = SWAP ? e.m_scale : e.n_scale;
    if (row_scale) each(d, row, col, 0, [&](float& v, i32 r, i32, i64) { if (r < p.rows) v *= row_scale[r]; });
    if (col_scale) each(d, row, col, 0, [&](float& v, i32, i32 c, i64) { if (c < p.cols) v *= col_scale[c]; });
    if (e.bias && SWAP != ((p.flags & kBiasRows) != 0)) {
        add_row_bias(e, p, d, row);
    } else if (e.bias) {
        each(d, row, col, 0, [&](float& v, i32, i32 c, i64) { if (c < p.cols) v += bias_at(e, p, c); });
    }
    if (e.residual && (p.flags & kResidualFirst)) add_residual(e, p, d, row, col, batch);
    const u32 activation = p.flags & kActivationMask;
    if (activation == kRelu) each(d, row, col, 0, [](float& v, i32, i32, i64) { v = fmaxf(v, 0.f); });
    if (activation == kGelu) each(d, row, col, 0, [](float& v, i32, i32, i64) { v = gelu(v); });
    if (activation == kSilu || activation == kGeluTanh) {
        const float slope = gate_slope(activation), cube = gate_cube(activation);
        each(d, row, col, 0, [=](float& v, i32, i32, i64) { v = gate(v, slope, cube); });
    }
    if (e.residual && !(p.flags & kResidualFirst)) add_residual(e, p, d, row, col, batch);
}

template <u32 kGroup = 0> DEVICE void group_barrier(u32 group) {
    if constexpr (kGroup < WARPGROUPS) {
        if (group == kGroup) return named_barrier<kGroup + 1, 128>();
        group_barrier<kGroup + 1>(group);
    }
}

/// Writes panel `kPanel` of a slab's accumulators to shared memory as a bulk store reads it.
template <u32 kPanel> DEVICE void write_panel(float (&d)[BN / 2], u32 panel) {
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3;
    if constexpr (sizeof(Out) == 2 && !SWAP) {
        const u32 row = warp * 16 + (lane & 15), half = lane >> 4;
#pragma unroll
        for (u32 j = 0; j < kPanelWidth / 16; j++) {
            const float* v = d + kPanel * (kPanelWidth / 2) + j * 8;
            matrix_store4(panel + swizzled<kPanelRowBytes>(row, j * 32 + half * 16), pack2<Out2>(v[0], v[1]),
                          pack2<Out2>(v[2], v[3]), pack2<Out2>(v[4], v[5]), pack2<Out2>(v[6], v[7]));
        }
    } else if constexpr (sizeof(Out) == 2) {
        // Lanes 0-7 and 16-23 address the first 8 of the warp's rows of R, the others the second 8.
        const u32 byte = warp * 32 + (lane >> 3 & 1) * 16;
#pragma unroll
        for (u32 j = 0; j < BN / 16; j++) {
            const float* v = d + j * 8;
            matrix_store4_transposed(panel + swizzled<128>(j * 16 + (lane >> 4) * 8 + (lane & 7), byte),
                                     pack2<Out2>(v[0], v[1]), pack2<Out2>(v[2], v[3]), pack2<Out2>(v[4], v[5]),
                                     pack2<Out2>(v[6], v[7]));
        }
        if constexpr (BN % 16) {
            const float* v = d + BN / 2 - 4;
            matrix_store2_transposed(panel + swizzled<128>(BN - 8 + (lane & 7), byte), pack2<Out2>(v[0], v[1]),
                                     pack2<Out2>(v[2], v[3]));
        }
    } else if constexpr (!SWAP) {
        const u32 row = warp * 16 + (lane >> 2), byte = (lane & 3) * 8;
#pragma unroll
        for (u32 j = 0; j < kPanelWidth / 8; j++) {
            const float* v = d + kPanel * (kPanelWidth / 2) + j * 4;
            shared_store2(panel + swizzled<kPanelRowBytes>(row, j * 32 + byte), v[0], v[1]);
            shared_store2(panel + swizzled<kPanelRowBytes>(row + 8, j * 32 + byte), v[2], v[3]);
        }
    } else if (warp / 2 == kPanel) {
        const u32 byte = (warp % 2 * 16 + (lane >> 2)) * 4, col = (lane & 3) * 2;
#pragma unroll
        for (u32 i = 0; i < BN / 2; i++) {
            shared_store1(panel + swizzled<128>(col + (i >> 2) * 8 + (i & 1), byte + (i >> 1 & 1) * 32), d[i]);
        }
    }
}

struct Writer {
    u8* shared;
    const TensorMap* d_map;
    Out* d_out;
    const Problem& problem;
    const Epilogue& epilogue;
    u32 group;

    /// One panel after the other: wait for a free buffer, write, hand to the copy engine. The stores drain while the
    /// next tile is computed.
    template <u32 kPanel = 0> DEVICE void store_panels(float (&d)[kStack][BN / 2], const Tile& tile) const {
        if constexpr (kPanel < kTilePanels) {
            constexpr u32 kSlab = kPanel / kSlabPanels, kInside = kPanel % kSlabPanels;
            u8* panel = shared + kOutOffset + (group * PANELS + kPanel % PANELS) * kPanelBytes;
            const bool is_leader = (threadIdx.x & 127) == 0;
            if (is_leader) store_wait_read<PANELS - 1>();
            group_barrier(group);
            write_panel<kInside>(d[kSlab], shared_address(panel));
            fence_async_shared();
            group_barrier(group);
            if (is_leader) {
                const i32 row = tile.row + (group * kOutStack + kSlab) * 64;
                if (SWAP) tensor_store(d_map, panel, row + kInside * kPanelWidth, tile.col, tile.batch);
                if (!SWAP) tensor_store(d_map, panel, tile.col + kInside * kPanelWidth, row, tile.batch);
                store_commit();
            }
            store_panels<kPanel + 1>(d, tile);
        }
    }

    DEVICE void store_elements(float (&d)[kStack][BN / 2], const Tile& tile, i32 row) const {
        Out* base = d_out + tile.batch * problem.d_batch;
        each(d, row, tile.col, problem.d_row, [&](float& v, i32 r, i32 c, i64 offset) {
            if (r < problem.rows && c < problem.cols) narrow(base + offset, v);
        });
    }

    DEVICE void write(float (&d)[kStack][BN / 2], const Tile& tile) const {
        const i32 row = tile.row + group * kOutStack * 64 + (threadIdx.x >> 5 & 3) * 16;
        if constexpr (GATED) combine(d, problem);
        else if constexpr (!kIsInteger) finish_all(epilogue, problem, d, row, tile.col, tile.batch);
        if (problem.flags & kStoreElements) {
            store_elements(d, tile, row);
        } else {
            store_panels(d, tile);
        }
    }

    /// The end of a tile whose depth is split: every block publishes its part, then sums and stores a share of the tile
    /// in the order of the parts, so that the result does not depend on timing.
    DEVICE void write_split(float (&d)[kStack][BN / 2], const Tile& tile, const Place& at, u64* sum_full, u64* sum_empty,
                            u32 parity) const {
        float* sum = (float*)shared;
        const u32 thread = threadIdx.x - 128, first_rank = at.rank - at.k;
        // Every warpgroup has read the ring.
        named_barrier<8, kConsumers>();
        each(d, group * kStack * 64 + (threadIdx.x >> 5 & 3) * 16, 0, kSumStride,
             [&](float& v, i32, i32, i64 offset) { sum[offset] = v; });
        named_barrier<8, kConsumers>();
        if (thread < CLUSTER_K) barrier_publish_remote(sum_full, first_rank + thread);
        barrier_wait_cluster(sum_full, parity);
        constexpr u32 kQuads = kSumCols / 4, kStep = CLUSTER_K * kConsumers;
        constexpr u32 kBatch = CLUSTER_K > 4 ? 1 : CLUSTER_K > 2 ? 2 : 4;
        for (u32 i = at.k * kConsumers + thread; i < kSumRows * kQuads; i += kBatch * kStep) {
            float4 x[kBatch][CLUSTER_K];
#pragma unroll
            for (u32 j = 0; j < kBatch; j++) {
                const u32 quad = min(i + j * kStep, kSumRows * kQuads - 1);
                const float* at_quad = sum + quad / kQuads * kSumStride + quad % kQuads * 4;
#pragma unroll
                for (u32 part = 0; part < CLUSTER_K; part++) x[j][part] = remote_load4(remote_address(at_quad, first_rank + part));
            }
#pragma unroll
            for (u32 j = 0; j < kBatch; j++) {
                const u32 quad = i + j * kStep;
                const i32 m = (SWAP ? tile.col : tile.row) + quad / kQuads;
                const i32 n = (SWAP ? tile.row : tile.col) + quad % kQuads * 4;
                if (quad >= kSumRows * kQuads || m >= (SWAP ? problem.cols : problem.rows)) continue;
                float v[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
                for (u32 part = 0; part < CLUSTER_K; part++) {
                    v[0] += x[j][part].x, v[1] += x[j][part].y, v[2] += x[j][part].z, v[3] += x[j][part].w;
                }
                store_quad(v, m, n, tile.batch);
            }
        }
        // The ring belongs to the copy engine again once every block has read its share.
        fence_async_shared();
        named_barrier<8, kConsumers>();
        if (thread < CLUSTER_K) barrier_publish_remote(sum_empty, first_rank + thread);
    }

    DEVICE void store_quad(float (&v)[4], i32 m, i32 n, i32 batch) const {
        const i32 width = SWAP ? problem.rows : problem.cols;
        Out* out = d_out + batch * problem.d_batch + m * problem.d_row + n;
#pragma unroll
        for (i32 i = 0; i < 4; i++) if (n + i < width) v[i] = finish(epilogue, problem, v[i], m, n + i, batch);
        if (n + 4 > width || (problem.flags & kStoreElements)) {
#pragma unroll
            for (i32 i = 0; i < 4; i++) if (n + i < width) narrow(out + i, v[i]);
        } else {
            narrow4(out, v);
        }
    }
};
