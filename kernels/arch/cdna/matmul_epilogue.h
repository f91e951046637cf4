//! End of a matrix product on CDNA: scales, bias, activation and residual on the accumulators, and their way to D.
//!
//! A lane holds, of rows lane % MMA of its wave's tiles, runs of eight neighbouring columns:
//!
//!   MMA 16   run e is tiles 2 e and 2 e + 1, from column 32 e + `lane_column`
//!   MMA 32   run e is half of tile e / 2, from column 16 e + `lane_column`

typedef vec<float, MMA * MMA / 64> FloatAcc;
typedef FloatAcc Sums[kTilesM][kTilesN];

constexpr u32 kRunPitch = MMA == 16 ? 32 : 16;
constexpr u32 kHalfRuns = kHalfN * MMA / kRunPitch, kSumRuns = kHalfRuns * HALVES;
/// Those of D, and columns of D of a wave in one half.
constexpr u32 kRuns = GATED ? kSumRuns / 2 : kSumRuns, kWaveColumns = kHalfN * MMA / (GATED && HALVES == 1 ? 2 : 1);

/// First column of run `e` behind a lane's first one.
DEVICE i32 run_column(u32 e) { return (i32)(e / kHalfRuns * (BN / HALVES) + e % kHalfRuns * kRunPitch); }

/// First column of a lane's runs.
DEVICE i32 lane_column(u32 lane) {
    // As `gather_columns` leaves them.
    if (kHasPlainColumns) return (i32)(lane / 16 % 2 * 16 + lane / 32 * 8);
    return (i32)(lane / MMA * 8);
}

/// Rows and columns of D of a lane.
struct Place {
    i32 first_row, first_col;
    static MEMBER Place of(const Tile& tile) {
        const u32 lane = lane_id(), wave = wave_id();
        return {tile.row + (i32)(wave / WAVES_N * (kHalfM * MMA) + lane % MMA),
                tile.col + (i32)(wave % WAVES_N * kWaveColumns) + lane_column(lane)};
    }
    MEMBER i32 row(u32 i) const { return first_row + (i32)(i / kHalfM * (BM / HALVES) + i % kHalfM * MMA); }
};

/// Eight neighbours of a row.
struct Run {
    float at[8];
    static MEMBER Run of(const Sums& sums, u32 i, u32 e) {
        Run run;
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            if constexpr (MMA == 16) run.at[j] = sums[i][2 * e + j / 4][j % 4];
            else run.at[j] = sums[i][e / 2][e % 2 * 8 + j];
        }
        return run;
    }
};
/// Runs of the sums that belong to run `e` of D: of the gate, and of what it lets through.
constexpr u32 gate_run(u32 e) { return HALVES == 2 ? e : 2 * e; }
constexpr u32 up_run(u32 e) { return HALVES == 2 ? e + kHalfRuns : 2 * e + 1; }

/// Those of a lane in one row.
struct Row {
    Run runs[kRuns];
    /// Calls `f(value, e, j)` for element j of every run e.
    template <class F> MEMBER void each(F f) {
#pragma unroll
        for (u32 e = 0; e < kRuns; e++) {
#pragma unroll
            for (u32 j = 0; j < 8; j++) f(runs[e].at[j], e, j);
        }
    }
};

// Templates, so that only the one for the type of D is compiled.
template <class T> DEVICE float widen(T v) {
    if constexpr (sizeof(T) == 4) return (float)v;
    else return widen16<OUT>(v);
}
DEVICE float bias_at(const Epilogue& e, const Problem& p, i32 n) {
    return p.flags & kBiasF32 ? ((const float*)e.bias)[n] : widen(((const Out*)e.bias)[n]);
}

/// Abramowitz and Stegun 7.1.26; absolute error below 2e-7.
DEVICE float erf_approx(float x) {
    const float a = __builtin_fabsf(x), t = rcp_approx(1.f + 0.3275911f * a);
    float poly = 1.061405429f * t - 1.453152027f;
    poly = ((poly * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f;
    return __builtin_copysignf(1.f - poly * t * exp2_approx(-1.4426950408889634f * a * a), x);
}

/// v sigmoid(slope (v + cube v^3)): SiLU with slope 1 and cube 0; GELU's tanh form, as 1 + tanh(u) = 2 sigmoid(2 u).
DEVICE float gate(float v, float slope, float cube) {
    return v * rcp_approx(1.f + exp2_approx(-1.4426950408889634f * slope * (v + cube * v * v * v)));
}

DEVICE void apply_activation(Row& row, u32 activation) {
    if (activation == kRelu) row.each([](float& v, u32, u32) { v = v < 0.f ? 0.f : v; });
    if (activation == kGelu) row.each([](float& v, u32, u32) { v = 0.5f * v * (1.f + erf_approx(v * 0.7071067811865476f)); });
    if (activation == kSilu || activation == kGeluTanh) {
        const float slope = activation == kSilu ? 1.f : 1.5957691216057308f;
        const float cube = activation == kSilu ? 0.f : 0.044715f;
        row.each([=](float& v, u32, u32) { v = gate(v, slope, cube); });
    }
}

/// D or the residual from the tile's first element on. Elements outside have offsets behind the end.
struct Window {
    Buffer buffer;
    u32 stride_bytes;
    bool is_aligned;
    /// Of the lane's first row.
    u32 first;
    i32 columns;

    static MEMBER Window of(const Out* matrix, i64 batch_stride, i64 row_stride, bool is_aligned, const Problem& p, const Tile& tile,
                            const Place& at) {
        const i32 rows = p.m - tile.row, columns = p.n - tile.col;
        const Out* base = matrix + tile.batch * batch_stride + tile.row * row_stride + tile.col;
        const u32 stride_bytes = (u32)row_stride * sizeof(Out);
        // The tile's rows only: offsets fit 31 bits.
        const u32 bytes = (min(rows, (i32)BM) - 1) * stride_bytes + columns * sizeof(Out);
        return {buffer_of(base, bytes), stride_bytes, is_aligned, (u32)(at.first_row - tile.row) * stride_bytes, columns};
    }
    /// Of the run's column `j`, `col` being its first one in the tile; the run must fit where `count` is 8.
    MEMBER u32 offset(u32 i, i32 col, u32 j, u32 count) const {
        const u32 row = (i / kHalfM * (BM / HALVES) + i % kHalfM * MMA) * stride_bytes;
        return first + row + (col + (i32)(j + count) <= columns ? (u32)(col + (i32)j) * sizeof(Out) : kOutside);
    }
    static constexpr u32 kOutside = 1u << 31;
};

DEVICE void add_residual(Row& row, float beta, const Window& window, u32 i, i32 col) {
    if (window.is_aligned) {
#pragma unroll
        for (u32 e = 0; e < kRuns; e++) {
            u32x4 quads[sizeof(Out) / 2];
#pragma unroll
            for (u32 q = 0; q < sizeof(Out) / 2; q++) quads[q] = buffer_load16(window.buffer, window.offset(i, col + run_column(e), 0, 8) + q * 16);
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                if constexpr (sizeof(Out) == 4) row.runs[e].at[j] += beta * __uint_as_float(quads[j / 4][j % 4]);
                else row.runs[e].at[j] += beta * widen16<OUT>((u16)(quads[0][j / 2] >> 16 * (j % 2)));
            }
        }
    } else {
        row.each([&](float& v, u32 e, u32 j) {
            const u32 offset = window.offset(i, col + run_column(e), j, 1);
            if constexpr (sizeof(Out) == 4) v += beta * __uint_as_float(buffer_load4(window.buffer, offset));
            else v += beta * widen16<OUT>(buffer_load2(window.buffer, offset));
        });
    }
}

DEVICE void store(Row& row, const Window& window, u32 i, i32 col) {
    if (window.is_aligned) {
#pragma unroll
        for (u32 e = 0; e < kRuns; e++) {
            u32x4 quads[sizeof(Out) / 2];
#pragma unroll
            for (u32 j = 0; j < 8; j += 4 / sizeof(Out)) {
                if constexpr (sizeof(Out) == 4) quads[j / 4][j % 4] = __float_as_uint(row.runs[e].at[j]);
                else quads[0][j / 2] = pack2<OUT>(row.runs[e].at[j], row.runs[e].at[j + 1]);
            }
#pragma unroll
            for (u32 q = 0; q < sizeof(Out) / 2; q++) buffer_store16(window.buffer, window.offset(i, col + run_column(e), 0, 8) + q * 16, quads[q]);
        }
    } else {
        row.each([&](float& v, u32 e, u32 j) {
            const u32 offset = window.offset(i, col + run_column(e), j, 1);
            if constexpr (sizeof(Out) == 4) buffer_store4(window.buffer, offset, __float_as_uint(v));
            else buffer_store2(window.buffer, offset, (u16)pack2<OUT>(v, 0.f));
        });
    }
}

/// Where the parts of a tile meet: each workgroup leaves its sums in `parts`, and the last one of a tile adds them in order.
struct Parts {
    f32x4* parts;
    u32* arrivals;
};

/// Adds up the parts of a tile; false for all workgroups of it but the last. Sums lie as lanes hold them.
DEVICE bool add_parts(Sums& sums, const Problem& p, const Tile& tile, const Parts& parts, Lds shared) {
    constexpr u32 kQuads = kTilesM * kTilesN * (MMA * MMA / 256);
    f32x4* mine = parts.parts + ((u64)tile.number * p.splits + tile.split) * (kQuads * kThreads) + threadIdx.x;
#pragma unroll
    for (u32 q = 0; q < kQuads; q++) {
        const FloatAcc& acc = sums[q / (kQuads / kTilesM)][q / (MMA * MMA / 256) % kTilesN];
        f32x4 quad;
#pragma unroll
        for (u32 r = 0; r < 4; r++) quad[r] = acc[q % (MMA * MMA / 256) * 4 + r];
        mine[q * kThreads] = quad;
        if (q % 8 == 7) order();
    }
    __threadfence();
    __syncthreads();
    LOCAL u32* arrived = (LOCAL u32*)shared;
    if (threadIdx.x == 0) *arrived = __scoped_atomic_fetch_add(parts.arrivals + tile.number, 1, __ATOMIC_ACQ_REL, __MEMORY_SCOPE_DEVICE);
    __syncthreads();
    if (uniform(*arrived) != p.splits - 1) return false;
    __threadfence();
    if (threadIdx.x == 0) parts.arrivals[tile.number] = 0;
    const f32x4* first = parts.parts + (u64)tile.number * p.splits * (kQuads * kThreads) + threadIdx.x;
#pragma unroll
    for (u32 q = 0; q < kTilesM * kTilesN; q++) sums[q / kTilesN][q % kTilesN] = (FloatAcc)0.f;
#pragma unroll 1
    for (u32 split = 0; split < p.splits; split++, first += kQuads * kThreads) {
#pragma unroll
        for (u32 q = 0; q < kQuads; q++) {
            FloatAcc& acc = sums[q / (kQuads / kTilesM)][q / (MMA * MMA / 256) % kTilesN];
            const f32x4 quad = first[q * kThreads];
#pragma unroll
            for (u32 r = 0; r < 4; r++) acc[q % (MMA * MMA / 256) * 4 + r] += quad[r];
            if (q % 8 == 7) order();
        }
    }
    return true;
}

/// The whole end of a tile, after all waves have read LDS for the last time. Row by row, so that few values are alive.
DEVICE void write_tile(Acc (&acc)[kTilesM][kTilesN], const Epilogue& e, const Problem& p, const Tile& tile, const Parts& parts, Lds shared) {
    const Place at = Place::of(tile);
    Sums& sums = reinterpret_cast<Sums&>(acc);
    if constexpr (!kIsInteger) {
        if (p.splits > 1 && !add_parts(sums, p, tile, parts, shared)) return;
    }
    const i32 col = at.first_col - tile.col;
    Row scale = {}, bias = {};
    if (e.n_scale) scale.each([&](float& v, u32 c, u32 j) { v = e.n_scale[min(at.first_col + run_column(c) + (i32)j, p.n - 1)]; });
    if (e.bias) bias.each([&](float& v, u32 c, u32 j) { v = bias_at(e, p, min(at.first_col + run_column(c) + (i32)j, p.n - 1)); });
    const Window result = Window::of(e.d, p.d_batch, p.d_row, p.flags & kAlignedD, p, tile, at);
    const Window residual = Window::of(e.residual, p.residual_batch, p.residual_row, p.flags & kAlignedResidual, p, tile, at);
    const float alpha = p.alpha * kInputScale;
#pragma unroll
    for (u32 i = 0; i < kTilesM; i++) {
        Row row;
#pragma unroll
        for (u32 c = 0; c < kRuns; c++) row.runs[c] = Run::of(sums, i, GATED ? gate_run(c) : c);
        if constexpr (GATED) {
            Row up;
#pragma unroll
            for (u32 c = 0; c < kRuns; c++) up.runs[c] = Run::of(sums, i, up_run(c));
            row.each([&](float& v, u32, u32) { v *= alpha; });
            apply_activation(row, p.flags & kActivationMask);
            row.each([&](float& v, u32 c, u32 j) { v *= alpha * up.runs[c].at[j]; });
        } else if constexpr (!kIsInteger) {
            const float factor = e.m_scale ? alpha * e.m_scale[min(at.row(i), p.m - 1)] : alpha;
            row.each([&](float& v, u32, u32) { v *= factor; });
            if (e.n_scale) row.each([&](float& v, u32 c, u32 j) { v *= scale.runs[c].at[j]; });
            if (e.bias) row.each([&](float& v, u32 c, u32 j) { v += bias.runs[c].at[j]; });
            apply_activation(row, p.flags & kActivationMask);
            if (e.residual) add_residual(row, p.beta, residual, i, col);
        }
        store(row, result, i, col);
        // Without it the compiler keeps addresses of more rows than there are registers.
        order();
    }
}
