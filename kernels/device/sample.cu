//! Drawing a token from every row of scores. A block a row.
//!
//! The weight of a score is 2^40 · e^((score - largest) / temperature) as an integer, from operations that round alike
//! everywhere: sums do not depend on their order, and every device and the host draw the same token for the same seed.
//!
//! Scores are ordered from the largest down, equal ones by position. A row is cut to its first top_k; then to the shortest
//! run whose weights make up top_p of those; then to weights of at least min_p of the largest. What is drawn is the first
//! token, by position, at which the running sum of what is left exceeds a random part of the whole.
//!
//! Where the cut lies is found from few candidates: those above the largest score that some of the threads saw of their
//! own parts of the row. They are sorted in shared memory. When too many are left, as in flat rows, the cut is found digit
//! by digit over the whole row.

#define SAMPLE_LIST 2048    // candidates that are sorted
#define SAMPLE_BINS 2048    // of a digit
#define SAMPLE_THREADS 1024 // of a block at most

// The weight of the largest score.
#define WHOLE (1ull << 40)
// A distance that leaves no weight.
#define BEYOND 0x3fffffffu

// The tokens that are kept: those of larger keys, and of this key those up to a position.
struct Cut {
    u32 key, last;
    u64 mass; // of what is kept
};

struct SampleSpace {
    union {
        u64 list[SAMPLE_LIST];
        struct {
            u32 counts[SAMPLE_BINS], low[SAMPLE_BINS], high[SAMPLE_BINS];
        } bins;
    };
    u64 sums[SAMPLE_THREADS];
    u64 waves[SAMPLE_THREADS / WAVE];
    u64 before;
    u64 random;
    u64 least; // the weight that min_p asks for
    Cut cut;
    // Where the results go: kept here, as they are needed last.
    int *token;
    float *log_prob;
    u32 position;
    u32 count;
};

// Numbers that are ordered as scores are; 0 for NaN.
__device__ __forceinline__ u32 key_of(float score) {
    if (score != score) return 0;
    u32 bits = __float_as_uint(score);
    if (bits == 0x80000000u) bits = 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float score_of(u32 key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// The largest score, and the powers of two that a unit of score is worth.
struct Scale {
    float top, factor;
};

// How far a score lies below the top, in 2^-24 powers of two.
__device__ __forceinline__ u32 distance_of(float score, Scale s) {
    if (score == s.top) return 0;
    float powers = (s.top - score) * s.factor;
    return powers < 41.0f ? (u32)(powers * 16777216.0f) : BEYOND;
}

// 2^(40 - distance), by a polynomial for the fraction.
__device__ __forceinline__ u64 weight_at(u32 distance) {
    if (distance >= BEYOND) return 0;
    u32 x = distance << 8;
    u32 y = 0x054a8a1u - __umulhi(x, 0x007890fu);
    y = 0x274f5c7u - __umulhi(x, y);
    y = 0xe35335eu - __umulhi(x, y);
    y = 0x3d7f7520u - __umulhi(x, y);
    y = 0xb17217e0u - __umulhi(x, y);
    return (((1ull << 32) - __umulhi(x, y)) << 8) >> (distance >> 24);
}
__device__ __forceinline__ u64 weight_of(float score, Scale s) { return weight_at(distance_of(score, s)); }

// The upper half of a product.
__device__ __forceinline__ u64 product_high(u64 a, u64 b) {
    u64 low = (u64)(u32)a * (u32)b, left = (a >> 32) * (u32)b, right = (u64)(u32)a * (b >> 32);
    u64 middle = (low >> 32) + (u32)left + (u32)right;
    return (a >> 32) * (b >> 32) + (left >> 32) + (right >> 32) + (middle >> 32);
}

// The first 64 bits that Philox4x32-10 gives for a key at counter 0 (Salmon et al., SC 2011).
__device__ __forceinline__ u64 random_bits(u64 seed) {
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32), c0 = 0, c1 = 0, c2 = 0, c3 = 0;
    _Pragma("unroll 1") for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
        u32 high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
        c0 = high1 ^ c1 ^ k0, c1 = low1;
        c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    return (u64)c1 << 32 | c0;
}

// The least integer that is no smaller than part · whole, 1 at least.
__device__ __forceinline__ u64 part_of(float part, u64 whole) {
    double exact = (double)part * (double)whole;
    u64 least = (u64)exact;
    if ((double)least < exact) least++;
    return least == 0 ? 1 : least < whole ? least : whole;
}

__device__ __forceinline__ u64 larger(u64 a, u64 b) { return a > b ? a : b; }
struct LargerOf {
    __device__ __forceinline__ u64 operator()(u64 a, u64 b) const { return larger(a, b); }
};
struct SumOf {
    __device__ __forceinline__ u64 operator()(u64 a, u64 b) const { return a + b; }
};

template <class F> __device__ __forceinline__ u64 over_wave(u64 v, F combine) {
    _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1) v = combine(v, (u64)exchange((i64)v, mask));
    return v;
}

// A value combined over the block, known to all.
template <class F> __device__ __forceinline__ u64 over_block(u64 v, SampleSpace &space, F combine) {
    v = over_wave(v, combine);
    __syncthreads();
    if (threadIdx.x % WAVE == 0) space.waves[threadIdx.x / WAVE] = v;
    __syncthreads();
    v = space.waves[0];
    for (u32 i = 1; i < blockDim.x / WAVE; i++) v = combine(v, space.waves[i]);
    return v;
}

struct Found {
    u32 position; // the number of values where there is none
    u64 before;   // the sum of the values in front of it
};

// The first of n values at which their running sum exceeds `target`.
template <class F> __device__ __forceinline__ Found first_past(u32 n, u64 target, SampleSpace &space, F value) {
    u32 chunk = (n + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * chunk;
    u32 end = begin + chunk < n ? begin + chunk : n;
    u64 own = 0;
    for (u32 i = begin; i < end; i++) own += value(i);
    __syncthreads();
    u64 sum = own;
    space.sums[threadIdx.x] = sum;
    for (u32 step = 1; step < blockDim.x; step *= 2) {
        __syncthreads();
        u64 other = threadIdx.x >= step ? space.sums[threadIdx.x - step] : 0;
        __syncthreads();
        space.sums[threadIdx.x] = sum += other;
    }
    if (threadIdx.x == blockDim.x - 1) space.position = n, space.before = sum;
    __syncthreads();
    u64 before = sum - own;
    if (before <= target && target < sum) {
        u32 i = begin;
        for (u64 v = value(i); before + v <= target; v = value(i)) before += v, i++;
        space.position = i, space.before = before;
    }
    __syncthreads();
    return Found{space.position, space.before};
}

// Sorts the first n entries of the list, n a power of two, from the largest down.
__device__ __forceinline__ void sort_list(SampleSpace &space, u32 n) {
    for (u32 run = 2; run <= n; run *= 2)
        for (u32 step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < n / 2; i += blockDim.x) {
                u32 a = 2 * i - (i & (step - 1)), b = a + step;
                u64 first = space.list[a], second = space.list[b];
                if ((first < second) == ((a & run) == 0)) space.list[a] = second, space.list[b] = first;
            }
        }
    __syncthreads();
}

// Fills the list behind n entries up to a power of two, which it gives.
__device__ __forceinline__ u32 pad_list(SampleSpace &space, u32 n) {
    u32 size = 2;
    while (size < n) size *= 2;
    for (u32 i = n + threadIdx.x; i < size; i += blockDim.x) space.list[i] = 0;
    return size;
}

// A row of scores, V of them read together.
template <class S, int V> struct Row {
    const S *scores;
    u32 columns;

    // Does `body` with every score of begin .. end and its position, threads of a group of `lanes` side by side.
    template <class F> __device__ __forceinline__ void each(u32 begin, u32 end, u32 lane, u32 lanes, F body) const {
        u32 step = lanes * V;
        for (u32 c = begin + lane * V; c < end; c += 2 * step) {
            u32 second = c + step;
            Pack<S, V> a = load_pack<S, V>(scores + c), b = load_pack<S, V>(scores + (second < end ? second : c));
            _Pragma("unroll") for (int i = 0; i < V; i++) body(widen<float>(a.at[i]), c + i);
            if (second >= end) break;
            _Pragma("unroll") for (int i = 0; i < V; i++) body(widen<float>(b.at[i]), second + i);
        }
    }
    template <class F> __device__ __forceinline__ void each(F body) const {
        each(0, columns, threadIdx.x, blockDim.x, body);
    }

    // The first position at which the running sum of `value(score, position)` exceeds `target(sum of all)`.
    template <class F, class T>
    __device__ __forceinline__ u32 locate(SampleSpace &space, T target, F value) const {
        u32 waves = blockDim.x / WAVE, wave = threadIdx.x / WAVE;
        u32 length = (columns + waves - 1) / waves;
        length = (length + WAVE * V - 1) / (WAVE * V) * (WAVE * V);
        u32 begin = wave * length, end = begin + length < columns ? begin + length : columns;
        u64 own = 0;
        each(begin, end, threadIdx.x % WAVE, WAVE, [&](float score, u32 at) { own += value(score, at); });
        own = over_wave(own, SumOf());
        __syncthreads();
        if (threadIdx.x % WAVE == 0) space.waves[wave] = own;
        __syncthreads();
        u64 total = 0;
        for (u32 i = 0; i < waves; i++) total += space.waves[i];
        u64 rest = target(total);
        wave = 0;
        while (wave + 1 < waves && rest >= space.waves[wave]) rest -= space.waves[wave++];
        begin = wave * length;
        length = begin + length < columns ? length : columns - begin;
        const S *from = scores + begin;
        return begin + first_past(length, rest, space, [&](u32 i) {
                           return value(widen<float>(from[i]), begin + i);
                       }).position;
    }
};

// The cut behind which the number of scores, or the sum of their weights, reaches `target`; everything is kept when it
// never does. Digit by digit: of the distance, then of the key, then the position among equals.
template <class S, int V>
__device__ __forceinline__ Cut descend(const Row<S, V> &row, Scale s, bool counts, u64 target, SampleSpace &space) {
    u64 before = 0, mass = 0;
    u32 known = 0;
    auto &bins = space.bins;
    _Pragma("unroll 1") for (int level = 0; level < 3; level++) {
        int above = level == 0 ? 30 : level == 1 ? 19 : 8, shift = level == 0 ? 19 : level == 1 ? 8 : 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < SAMPLE_BINS; i += blockDim.x) bins.counts[i] = bins.low[i] = bins.high[i] = 0;
        __syncthreads();
        row.each([&](float score, u32) {
            if (score != score) return;
            u32 distance = distance_of(score, s);
            if (distance >> above != known) return;
            u32 digit = distance >> shift & (1u << (above - shift)) - 1;
            u64 weight = weight_at(distance);
            u32 low = (u32)weight, high = (u32)(weight >> 32);
            atomic_add(&bins.counts[digit], 1);
            if (low) high += atomic_add(&bins.low[digit], low) > ~low;
            if (high) atomic_add(&bins.high[digit], high);
        });
        __syncthreads();
        auto weights = [&](u32 i) { return (u64)bins.high[i] << 32 | bins.low[i]; };
        Found found;
        if (counts) {
            found = first_past(SAMPLE_BINS, target - before - 1, space, [&](u32 i) { return (u64)bins.counts[i]; });
        } else {
            found = first_past(SAMPLE_BINS, target - mass - 1, space, weights);
        }
        if (found.position == SAMPLE_BINS) return Cut{0, ~0u, first_past(SAMPLE_BINS, ~0ull, space, weights).before};
        u64 skipped = 0;
        for (u32 i = threadIdx.x; i < found.position; i += blockDim.x) skipped += counts ? weights(i) : bins.counts[i];
        skipped = over_block(skipped, space, SumOf());
        before += counts ? found.before : skipped;
        mass += counts ? skipped : found.before;
        known = known << (above - shift) | found.position;
    }
    // All that are left weigh the same.
    u64 weight = weight_at(known);
    u64 rest = counts ? target - before : (target - mass + weight - 1) / weight;
    u32 high = 0, low = 0;
    row.each([&](float score, u32) {
        if (score != score || distance_of(score, s) != known) return;
        u32 key = key_of(score);
        if (key > high) high = key;
        if (~key > low) low = ~key;
    });
    high = (u32)over_block(high, space, LargerOf());
    low = ~(u32)over_block(low, space, LargerOf());
    mass += rest * weight;
    while (high != low) {
        int shift = 0;
        while ((high - low) >> shift >= SAMPLE_BINS) shift++;
        __syncthreads();
        for (u32 i = threadIdx.x; i < SAMPLE_BINS; i += blockDim.x) bins.counts[i] = 0;
        __syncthreads();
        row.each([&](float score, u32) {
            u32 key = key_of(score);
            if (key > high || key < low || distance_of(score, s) != known) return;
            atomic_add(&bins.counts[(high - key) >> shift], 1);
        });
        __syncthreads();
        Found found = first_past(SAMPLE_BINS, rest - 1, space, [&](u32 i) { return (u64)bins.counts[i]; });
        rest -= found.before;
        high -= found.position << shift;
        u32 reach = (1u << shift) - 1;
        if (high - low > reach) low = high - reach;
    }
    u32 last = row.locate(
        space, [&](u64) { return rest - 1; }, [&](float score, u32) { return (u64)(key_of(score) == high); });
    return Cut{high, last, mass};
}

// What restricts the tokens of a row.
struct Filters {
    u32 top_k;   // 0: all
    float top_p; // 1: all
};

// Draws among the first n entries of the list, each a key and the complement of its position; `total`: the weight that
// top_p is a part of where there is no top_k.
__device__ __forceinline__ u32 draw_from_list(u32 n, Scale s, Filters f, u64 total, SampleSpace &space) {
    u32 size = pad_list(space, n);
    sort_list(space, size);
    auto in_order = [&](u32 i) { return weight_of(score_of((u32)(space.list[i] >> 32)), s); };
    if (f.top_k && f.top_k < n) n = f.top_k;
    if (f.top_p < 1.0f) {
        if (f.top_k || total == 0) total = first_past(n, ~0ull, space, in_order).before;
        Found found = first_past(n, part_of(f.top_p, total) - 1, space, in_order);
        if (found.position < n) n = found.position + 1;
    }
    // By position.
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) space.list[i] = space.list[i] << 32 | space.list[i] >> 32;
    size = pad_list(space, n);
    sort_list(space, size);
    auto kept = [&](u32 i) {
        u64 weight = weight_of(score_of((u32)space.list[i]), s);
        return weight >= space.least ? weight : 0;
    };
    total = first_past(n, ~0ull, space, kept).before;
    Found found = first_past(n, product_high(space.random, total), space, kept);
    return ~(u32)(space.list[found.position] >> 32);
}

// The key that candidates have at least, so that they hold all that the filters keep and are few; 0 where there is none
// such. The list holds the best of every thread. `total` becomes the weight of the row where it was needed.
template <class S, int V>
__device__ __forceinline__ u32 threshold(const Row<S, V> &row, Scale s, Filters f, u64 &total, SampleSpace &space) {
    sort_list(space, blockDim.x);
    if (f.top_k && f.top_k <= blockDim.x) {
        u32 key = (u32)(space.list[f.top_k - 1] >> 32);
        return key ? key : 1;
    }
    auto best = [&](u32 place) {
        u32 key = (u32)(space.list[place - 1] >> 32);
        return key ? key : 1;
    };
    u32 narrow = best(blockDim.x / 32), middle = best(blockDim.x / 4), wide = best(blockDim.x);
    u64 narrow_mass = 0, middle_mass = 0, wide_mass = 0, counts = 0;
    row.each([&](float score, u32) {
        u64 weight = weight_of(score, s);
        u32 key = key_of(score);
        total += weight;
        wide_mass += key >= wide ? weight : 0, counts += key >= wide;
        middle_mass += key >= middle ? weight : 0, counts += key >= middle ? 1ull << 21 : 0;
        narrow_mass += key >= narrow ? weight : 0, counts += key >= narrow ? 1ull << 42 : 0;
    });
    total = over_block(total, space, SumOf());
    counts = over_block(counts, space, SumOf());
    u64 needed = part_of(f.top_p, total);
    auto enough = [&](u32 count, u64 mass) {
        return f.top_k ? count >= f.top_k : over_block(mass, space, SumOf()) >= needed;
    };
    u32 count = (u32)(counts >> 42);
    if (enough(count, narrow_mass)) return count <= SAMPLE_LIST ? narrow : 0;
    count = (u32)(counts >> 21) & 0x1fffff;
    if (enough(count, middle_mass)) return count <= SAMPLE_LIST ? middle : 0;
    count = (u32)counts & 0x1fffff;
    return enough(count, wide_mass) && count <= SAMPLE_LIST ? wide : 0;
}

// Draws a token of a row whose best score, and for each thread the best of its part in the list, are known.
template <class S, int V>
__device__ __forceinline__ u32 draw(const Row<S, V> &row, Scale s, Filters f, SampleSpace &space) {
    if (threadIdx.x == 0) space.cut = Cut{0, ~0u, 0};
    if (f.top_k || f.top_p < 1.0f) {
        u64 total = 0;
        u32 key = row.columns <= SAMPLE_LIST ? 1 : threshold(row, s, f, total, space);
        if (key) {
            __syncthreads();
            if (threadIdx.x == 0) space.count = 0;
            __syncthreads();
            row.each([&](float score, u32 at) {
                u32 own = key_of(score);
                if (own < key) return;
                u32 slot = atomic_add(&space.count, 1);
                if (slot < SAMPLE_LIST) space.list[slot] = (u64)own << 32 | (u32)~at;
            });
            __syncthreads();
            u32 count = space.count;
            if (count <= SAMPLE_LIST) return draw_from_list(count, s, f, total, space);
        }
        _Pragma("unroll 1") for (int filter = 0; filter < 2; filter++) {
            bool counts = filter == 0;
            if (counts ? f.top_k == 0 : !(f.top_p < 1.0f)) continue;
            Cut own = descend(row, s, counts, counts ? f.top_k : part_of(f.top_p, total), space);
            total = own.mass;
            if (threadIdx.x == 0) space.cut = own;
        }
    }
    __syncthreads();
    Cut cut = space.cut;
    return row.locate(
        space, [&](u64 total) { return product_high(space.random, total); },
        [&](float score, u32 at) {
            u32 key = key_of(score);
            if (key < cut.key || (key == cut.key && at > cut.last)) return (u64)0;
            u64 weight = weight_of(score, s);
            return weight >= space.least ? weight : (u64)0;
        });
}

struct SampleParams {
    const float *temperatures;
    const u32 *top_k;
    const float *top_p, *min_p;
    const u64 *seeds;
    int *tokens;
    float *log_probs;
};

template <class S, int V> __device__ __forceinline__ void sample(const S *scores, u32 columns, SampleParams p) {
    begin_kernel();
    __shared__ SampleSpace space;
    u32 at = blockIdx.x;
    Row<S, V> row = {scores + (i64)at * columns, columns};
    u64 best = 0;
    row.each([&](float score, u32 c) { best = larger(best, (u64)key_of(score) << 32 | (u32)~c); });
    space.list[threadIdx.x] = best;
    if (threadIdx.x == 0) {
        float least = p.min_p[at];
        space.least = least > 0.0f ? part_of(least < 1.0f ? least : 1.0f, WHOLE) : 1;
        space.random = random_bits(p.seeds[at]);
        space.token = p.tokens + at;
        space.log_prob = p.log_probs ? p.log_probs + at : 0;
    }
    best = over_block(best, space, LargerOf());
    u32 token = ~(u32)best, key = (u32)(best >> 32);
    float temperature = p.temperatures[at], top = key ? score_of(key) : __uint_as_float(0x7fc00000u);
    // A row without a score above minus infinity is taken as the greedy choice takes it.
    if (temperature > 0.0f && key > 0x007fffffu) {
        Filters f = {p.top_k[at], p.top_p[at]};
        if (f.top_k >= columns) f.top_k = 0;
        if (!(f.top_p < 1.0f)) f.top_p = 1.0f;
        if (f.top_p < 0.0f) f.top_p = 0.0f;
        token = draw(row, Scale{top, 1.44269504f / temperature}, f, space);
    }
    if (threadIdx.x == 0) *space.token = (int)token;
    if (!space.log_prob) return;
    u64 total = 0;
    row.each([&](float score, u32) { total += weight_of(score, Scale{top, 1.44269504f}); });
    total = over_block(total, space, SumOf());
    float score = widen<float>(row.scores[token]), below = score == top ? 0.0f : score - top;
    if (threadIdx.x == 0) *space.log_prob = below - logf((float)total * (1.0f / (float)WHOLE));
}

#define SAMPLE_KERNEL(SUFFIX, S, V)                                                                             \
    extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS) sample_##SUFFIX##_v##V(                         \
        void *tokens, const void *scores, const void *temperatures, const void *top_k, const void *top_p,        \
        const void *min_p, const void *seeds, void *log_probs, u32 columns) {                                    \
        sample<S, V>((const S *)scores, columns,                                                                 \
                     SampleParams{(const float *)temperatures, (const u32 *)top_k, (const float *)top_p,         \
                                  (const float *)min_p, (const u64 *)seeds, (int *)tokens, (float *)log_probs}); \
    }
#define SAMPLE_KERNELS(SUFFIX, S) \
    SAMPLE_KERNEL(SUFFIX, S, 1)   \
    SAMPLE_KERNEL(SUFFIX, S, 4)

SAMPLE_KERNELS(f32, float)
SAMPLE_KERNELS(f16, f16)
SAMPLE_KERNELS(bf16, bf16)
