//! Softmax of a tile of scores in the registers of a warpgroup, with running maxima and sums of its rows.
//!
//! Definitions from the unit: BN (columns of the tile) and MASK (2 and 3: keys may be hidden at the begin of a row as well; 3: a
//! mask in memory may have added to the scores numbers as low as there are).

/// Lane l of warp w holds rows 16w + l/4 and 8 more, columns 8j + 2(l%4) + {0, 1}: elements 4j + {0, 1} and, of the
/// second row, 4j + {2, 3}.
struct RowState {
    float max[2], sum[2], alpha[2];
};

/// Hides scores of keys outside [begin, end) of each row; both are relative to the thread's first column.
DEVICE void hide(float (&s)[BN / 2], const i32 (&begin)[2], const i32 (&end)[2]) {
#pragma unroll
    for (int i = 0; i < BN / 2; i++) {
        const int column = 8 * (i / 4) + (i & 1), row = (i >> 1) & 1;
        bool hidden = column >= end[row];
        if (MASK >= 2) hidden = hidden || column < begin[row];
        s[i] = hidden ? kMinusInfinity : s[i];
    }
}

/// Scores become exp2(scale * (score - maximum)); the rows' maxima and sums follow. True: the outputs gathered so far
/// must be multiplied by `alpha`. kGuard: a row may not have seen any key yet.
template <bool kGuard> DEVICE bool softmax(float (&s)[BN / 2], RowState& rows, float scale) {
    float top[4] = {s[0], s[1], s[2], s[3]};
#pragma unroll
    for (int i = 4; i < BN / 2; i++) top[i & 3] = fmaxf(top[i & 3], s[i]);
    bool grows = false;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        top[r] = fmaxf(top[2 * r], top[2 * r + 1]);
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
        top[r] = fmaxf(top[r], rows.max[r]);
        grows = grows || (top[r] - rows.max[r]) * scale > kLazyGrowth;
    }
    const bool rescale = __any_sync(0xffffffffu, grows);
    if (rescale) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float next = kGuard && top[r] == kMinusInfinity ? 0.0f : top[r];
            rows.alpha[r] = exp2_approx((rows.max[r] - next) * scale);
            rows.sum[r] *= rows.alpha[r];
            rows.max[r] = top[r];
        }
    }
    float base[2], sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        base[r] = kGuard && rows.max[r] == kMinusInfinity ? 0.0f : rows.max[r];
        if (MASK != 3) base[r] *= scale;
    }
#pragma unroll
    for (int i = 0; i < BN / 2; i++) {
        // The lowest numbers times the scale would be infinite.
        const float power = MASK == 3 ? (s[i] - base[(i >> 1) & 1]) * scale : fmaf(s[i], scale, -base[(i >> 1) & 1]);
        s[i] = exp2_approx(power);
        sum[i & 3] += s[i];
    }
#pragma unroll
    for (int r = 0; r < 2; r++) rows.sum[r] += sum[2 * r] + sum[2 * r + 1];
    return rescale;
}

/// Lane i's element k becomes lane k's element i among the four lanes of a quad.
DEVICE void transpose4(u32 (&part)[4], int lane) {
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & bit) continue;
            const bool upper = lane & bit;
            const u32 other = __shfl_xor_sync(0xffffffffu, upper ? part[i] : part[i | bit], bit);
            if (upper) part[i] = other;
            else part[i | bit] = other;
        }
    }
}
