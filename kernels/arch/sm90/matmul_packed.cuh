//! Products with packed weights: each warp decodes fragments of records (see `nbits.cuh`) into registers while the products
//! of the fragments before them run.

/// Products of 16 inputs that are decoded together, and how often that happens in a record.
constexpr u32 kSteps = 4 / kStack, kParts = 8 / kSteps;
static_assert(kStack <= 2, "two sets of fragments leave too few registers");

/// The A fragments of `kSteps` products: weights of a part of a record, in the type of the activations.
DEVICE void fragments(u32 (&a)[kSteps][kStack][4], const u8* records, u32 part, const Packed& packed) {
    constexpr u32 kCodes = kCodeBytes<WEIGHT_BITS>, kWords = WEIGHT_BITS / 4, kMiddle = 1 << (WEIGHT_BITS - 1);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3, pair = warp * 8 + lane / 4;
#pragma unroll
    for (u32 s = 0; s < kStack; s++) {
        const u8* record = records + s * kRecordBytes;
        const u8* scales = record + kCodes + pair * packed.groups * 4;
        const u8* points = record + kCodes + (128 + pair * 2) * packed.groups;
        u32 codes[kSteps * kWords];
        const u32 first = part * kSteps * kWords, inside = first % (4 * kWords);
        const u8* from = record + (first / (4 * kWords) * 4 + warp) * kQuarterBytes<WEIGHT_BITS> + lane * 16;
#pragma unroll
        for (u32 i = 0; i < kSteps * kWords; i += 2) {
            const uint2 v = *(const uint2*)(from + (inside + i) / 4 * 512 + (inside + i) % 4 * 4);
            codes[i] = v.x, codes[i + 1] = v.y;
        }
#pragma unroll
        for (u32 k = 0; k < kSteps; k++) {
            const u32 group = (part * kSteps + k) * packed.groups / 8, scale = *(const u32*)(scales + group * 4);
            // Where there are none, what lies behind the scales is read and not used: a branch here serialises the products.
            const u32 point = *(const u16*)(points + group * 2);
            const Zeros zeros = zeros_of<IN, WEIGHT_BITS>(packed.has_zeros ? point : kMiddle | kMiddle << 8);
            decode<IN, WEIGHT_BITS>(a[k][s], codes + k * kWords, zeros);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 both = permute_bytes(scale, 0, i % 2 ? 0x3232 : 0x1010);
                a[k][s][i] = fma2<IN>(a[k][s][i], both, 0x80008000u);
            }
            wgmma_touch(a[k][s]);
        }
    }
}

/// Sums `count` records of depth into d. Two parts of a record are in flight: one is decoded, one multiplied.
template <class Consumer>
DEVICE void multiply_packed(const Consumer& consumer, const Packed& packed, float (&d)[kStack][BN / 2], u32 count,
                            u32& stage, u32& parity) {
    const u64 q_first = wgmma_descriptor<kRowBytes>(consumer.shared + kQOffset);
    const u8* first = consumer.shared + consumer.group * kStack * kRecordBytes;
    u32 a[2][kSteps][kStack][4];
    u32 previous = 0;
#pragma unroll 1
    for (u32 block = 0; block < count; block++) {
        barrier_wait(consumer.full + stage, parity);
        const u64 q = q_first + stage * (kQBytes / 16);
#pragma unroll
        for (u32 part = 0; part < kParts; part++) {
            // The products that read these registers are done, and after the first part those of the record before.
            wgmma_wait<1>();
            if (part == 1 && block > 0) consumer.release(previous);
            fragments(a[part % 2], first + stage * kPBytes, part, packed);
            wgmma_fence();
#pragma unroll
            for (u32 k = 0; k < kSteps; k++) {
                const u32 step = part * kSteps + k;
#pragma unroll
                for (u32 s = 0; s < kStack; s++) {
                    Mma::rs(d[s], a[part % 2][k][s], q + step / 4 * (BN * kRowBytes / 16) + step % 4 * 2, block | step);
                }
            }
            wgmma_commit();
        }
        previous = stage;
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    consumer.release(previous);
}
