//! What Ampere's tier adds to the vendor's common instructions: launch order, products of 32-bit and 8-bit elements.
//! Every later GPU of the vendor has these too, so that the texts also serve as PTX for chips without a folder of their own.

/// Nothing to wait for: launches of this family start when the ones ahead of them have ended.
DEVICE void dependency_wait() {}
DEVICE void dependency_launch() {}

template <> DEVICE void warp_mma<TF32>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// Integers of 8 bits; their sums are i32.
template <class T> DEVICE void warp_mma(i32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> DEVICE void warp_mma<S8>(i32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
