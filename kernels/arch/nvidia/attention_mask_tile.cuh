//! A mask in memory on a tile of scores in registers, as `attention_softmax.cuh` lays it out.
//!
//! Definitions from the unit: ELEMENT, BN (columns of the tile).

/// The mask of a thread's two rows for one block of keys. A lane loads what begins at a multiple of 8 elements in memory, of
/// each 32; rows that do not begin there are shifted to where they should; then the lanes of a quad deal out their keys:
///
///     keys of 32               0 .. 7 | 8 .. 15 | 16 .. 23 | 24 .. 31
///     loaded by lane of quad      0   |    1    |    2     |    3
struct MaskTile {
    static constexpr int kRuns = BN / 32;
    const u8* line[2];
    u32 words[2][kRuns][4]; // two keys of the element type each; of booleans four in each of the first two

    static DEVICE int quad_lane() { return threadIdx.x % 4; }

    /// For rows `row` and `row` + 8; rows past the last one read that one.
    DEVICE void start(const Masking& masking, i32 batch, i32 head, i32 row, i32 last_row) {
#pragma unroll
        for (int r = 0; r < 2; r++) line[r] = masking.line(batch, head, min(row + 8 * r, last_row));
    }
    /// Starts to load the part for keys from `key0` on. Nothing is read that has no part of a key before `end`.
    DEVICE void load(const MaskShape& shape, i32 key0, i32 end) {
        if (shape.kind == kMaskElement) load_runs<4>(key0, end);
        if (shape.kind == kMaskBool) load_runs<2>(key0, end);
    }
    /// Scores become factor * score + mask. The arguments of `load` once more.
    DEVICE void add(const MaskShape& shape, float (&s)[BN / 2], float factor, i32 key0, i32 end) {
        if (shape.kind == kMaskElement) add_elements(shape, s, factor, key0, end);
        else if (shape.kind == kMaskBool) choose(shape, s, factor, key0, end);
        else add_floats(s, factor, key0 + 2 * quad_lane(), end);
    }

private:
    static DEVICE float& at(float (&s)[BN / 2], int r, int group, int i) { return s[4 * group + 2 * r + i]; }

    /// Bytes from a multiple of the bytes of 8 keys to a row's first key.
    template <int kWords> DEVICE u32 ahead(int r) const { return (u32)(u64)line[r] % (4 * kWords); }

    /// What the lane loads of a row in place of the 8 keys from `key` on.
    template <int kWords> DEVICE void load_words(u32 (&part)[4], int r, i32 key, i32 end) const {
        if (key - (i32)ahead<kWords>(r) * 2 / kWords >= end) return;
        const u8* from = line[r] - ahead<kWords>(r) + (i64)key * (kWords / 2);
        if (kWords == 4) {
            const uint4 keys = *reinterpret_cast<const uint4*>(from);
            part[0] = keys.x, part[1] = keys.y, part[2] = keys.z, part[3] = keys.w;
        } else {
            const uint2 keys = *reinterpret_cast<const uint2*>(from);
            part[0] = keys.x, part[1] = keys.y;
        }
    }
    template <int kWords> DEVICE void load_runs(i32 key0, i32 end) {
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int n = 0; n < kRuns; n++) load_words<kWords>(words[r][n], r, key0 + 32 * n + 8 * quad_lane(), end);
    }
    /// A run of a row to where it would be if its keys began at a multiple of 8 elements.
    template <int kWords> DEVICE void shift(int r, int n, i32 key0, i32 end) {
        u32 both[2 * kWords], next[4] = {0, 0, 0, 0};
        if (n + 1 == kRuns && quad_lane() == 0) load_words<kWords>(next, r, key0 + BN, end);
#pragma unroll
        for (int k = 0; k < kWords; k++) {
            const u32 behind = n + 1 == kRuns ? next[k] : words[r][n + 1 == kRuns ? n : n + 1][k];
            const u32 given = quad_lane() == 0 ? behind : words[r][n][k];
            both[k] = words[r][n][k];
            both[kWords + k] = __shfl_sync(0xffffffffu, given, (threadIdx.x + 1) % 4, 4);
        }
        const u32 bytes = ahead<kWords>(r);
        if (kWords == 4 && bytes & 8)
#pragma unroll
            for (int k = 0; k + 2 < 2 * kWords; k++) both[k] = both[k + 2];
        if (bytes & 4)
#pragma unroll
            for (int k = 0; k + 1 < 2 * kWords; k++) both[k] = both[k + 1];
#pragma unroll
        for (int k = 0; k < kWords; k++) words[r][n][k] = __funnelshift_r(both[k], both[k + 1], bytes % 4 * 8);
    }

    DEVICE void add_elements(const MaskShape& shape, float (&s)[BN / 2], float factor, i32 key0, i32 end) {
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int n = 0; n < kRuns; n++) {
                if (!shape.is_aligned) shift<4>(r, n, key0, end);
                transpose4(words[r][n], quad_lane());
#pragma unroll
                for (int g = 0; g < 4; g++) {
                    float &low = at(s, r, 4 * n + g, 0), &high = at(s, r, 4 * n + g, 1);
                    low = fmaf(low, factor, low2<ELEMENT>(words[r][n][g]));
                    high = fmaf(high, factor, high2<ELEMENT>(words[r][n][g]));
                }
            }
    }
    /// One bit for each of four bytes that is not zero.
    static DEVICE u32 bits(u32 bytes) { return __vsetne4(bytes, 0) * 0x01020408u >> 24; }

    DEVICE void choose(const MaskShape& shape, float (&s)[BN / 2], float factor, i32 key0, i32 end) {
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int n = 0; n < kRuns; n++) {
                if (!shape.is_aligned) shift<2>(r, n, key0, end);
                u32 seen = (bits(words[r][n][0]) | bits(words[r][n][1]) << 4) << 8 * quad_lane();
                seen |= __shfl_xor_sync(0xffffffffu, seen, 1);
                seen |= __shfl_xor_sync(0xffffffffu, seen, 2);
                seen >>= 2 * quad_lane();
#pragma unroll
                for (int g = 0; g < 4; g++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        float& score = at(s, r, 4 * n + g, i);
                        score = seen >> (8 * g + i) & 1 ? score * factor : kMinusInfinity;
                    }
            }
    }
    DEVICE void add_floats(float (&s)[BN / 2], float factor, i32 key0, i32 end) const {
#pragma unroll
        for (int i = 0; i < BN / 2; i++) {
            const i32 key = key0 + 8 * (i / 4) + (i & 1);
            const float* row = reinterpret_cast<const float*>(line[(i >> 1) & 1]);
            s[i] = fmaf(s[i], factor, key < end ? row[key] : 0.0f);
        }
    }
};
