//! Hopper's instructions as functions: barriers, bulk copies, warpgroup matrix products, matrix stores, launch control.
//!
//! Inline assembly lives in this file and in the vendor's common primitives, which come before it. Layout rules of the
//! PTX manual that callers rely on stand beside the functions.

/// A tensor map as the driver encodes it, passed by value as a `__grid_constant__` parameter.
struct __align__(64) TensorMap {
    u8 bytes[128];
};

/// Tags of 8-bit floats.
struct E4M3 { typedef u8 Bits; };
struct E5M2 { typedef u8 Bits; };

DEVICE u16 pack_e4m3(float low, float high) {
    u16 bits;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
    return bits;
}

// ---- Threads and registers ---------------------------------------------------------------------------------------

DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
/// The same value in every lane of a warp, in a register the compiler knows to be uniform.
DEVICE u32 uniform(u32 value) { return __shfl_sync(0xffffffffu, value, 0); }
DEVICE bool elect_one() {
    u32 elected;
    asm volatile("{.reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p;}" : "=r"(elected));
    return elected != 0;
}
/// A warpgroup gives up registers, or waits until it can have them. Counts are multiples of 8.
template <int kCount> DEVICE void release_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount> DEVICE void acquire_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
/// Named barrier whose id is known only at run time: costs the kernel all sixteen.
template <int kThreads> DEVICE void named_barrier_at(u32 id) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}
template <int kThreads> DEVICE void named_barrier_arrive_at(u32 id) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}
/// Arrives without ordering writes: enough after `barrier_init_fence`.
DEVICE void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}

/// Waits until every kernel this one depends on has ended and its writes are visible.
DEVICE void dependency_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
/// Lets kernels that depend on this one be started once every block has said so.
DEVICE void dependency_launch() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// ---- Barriers in shared memory -----------------------------------------------------------------------------------

DEVICE void barrier_init(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
/// Makes initialised barriers visible to the copy engine and to the cluster; a cluster or block barrier must follow.
DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
/// Arrives and adds to the bytes that bulk copies still have to deliver in this phase.
DEVICE void barrier_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
/// Arrives on the barrier at the same place in another block of the cluster (or this one). Orders no ordinary writes for
/// that block: a full cluster release costs a device-wide memory barrier.
DEVICE void barrier_arrive_remote(u64* barrier, u32 block) {
    asm volatile("{.reg .b32 r; mapa.shared::cluster.u32 r, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [r];}" ::"r"(shared_address(barrier)),
                 "r"(block)
                 : "memory");
}
/// The same, and writes before it are visible to whoever waits with `barrier_wait_cluster`.
DEVICE void barrier_publish_remote(u64* barrier, u32 block) {
    asm volatile("{.reg .b32 r; mapa.shared::cluster.u32 r, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [r];}" ::"r"(shared_address(barrier)),
                 "r"(block)
                 : "memory");
}
/// Waits until the phase with this parity has ended. A fresh barrier is in phase 0, so parity 1 returns at once.
DEVICE void barrier_wait(u64* barrier, u32 parity) {
    asm volatile("{.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done; bra again;\n"
                 "done: }" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}
/// The same where the arrivals come from other blocks whose writes are read next.
DEVICE void barrier_wait_cluster(u64* barrier, u32 parity) {
    asm volatile("{.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done; bra again;\n"
                 "done: }" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}
/// True when the phase has ended already; never blocks for long.
DEVICE bool barrier_test(u64* barrier, u32 parity) {
    u32 done;
    asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return done != 0;
}

// ---- Shared memory of the cluster --------------------------------------------------------------------------------

/// Address, for cluster loads and stores, of the same place in another block.
DEVICE u32 remote_address(const void* pointer, u32 block) {
    u32 address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(pointer)), "r"(block));
    return address;
}
DEVICE float4 remote_load4(u32 address) {
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}
DEVICE float remote_load(u32 address) {
    float v;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
    return v;
}

// ---- Bulk tensor copies ------------------------------------------------------------------------------------------

/// What the second-level cache should do with the lines of a copy.
constexpr u64 kCacheNormal = 0x1000000000000000ull;
constexpr u64 kCacheEvictFirst = 0x12F0000000000000ull;
constexpr u64 kCacheEvictLast = 0x14F0000000000000ull;

/// Copies `bytes` (a multiple of 16, both ends aligned to 16) into shared memory; they count against `barrier`.
DEVICE void bulk_load(void* shared, const void* global, u32 bytes, u64* barrier, u64 cache = kCacheNormal) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
                 ::"r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(cache)
                 : "memory");
}
DEVICE void tensor_prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/// Copies the box at (x, y[, z[, w]]) of a tensor into shared memory; its bytes count against `barrier`.
DEVICE void tensor_load(void* shared, const TensorMap* map, u64* barrier, i32 x, i32 y, u64 cache = kCacheNormal) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint\n"
                 "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "l"(cache)
                 : "memory");
}
DEVICE void tensor_load(void* shared, const TensorMap* map, u64* barrier, i32 x, i32 y, i32 z,
                        u64 cache = kCacheNormal) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint\n"
                 "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "l"(cache)
                 : "memory");
}
DEVICE void tensor_load(void* shared, const TensorMap* map, u64* barrier, i32 x, i32 y, i32 z, i32 w,
                        u64 cache = kCacheNormal) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint\n"
                 "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w), "l"(cache)
                 : "memory");
}
/// The same into every block of the cluster whose bit is set in `mask`, at the same place, counting against the barrier
/// at the same place in each.
DEVICE void tensor_load_multicast(void* shared, const TensorMap* map, u64* barrier, i32 x, i32 y, i32 z, u16 mask,
                                  u64 cache = kCacheNormal) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
                 ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6, %7;" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "h"(mask), "l"(cache)
                 : "memory");
}
DEVICE void tensor_load_multicast(void* shared, const TensorMap* map, u64* barrier, i32 x, i32 y, i32 z, i32 w,
                                  u16 mask, u64 cache = kCacheNormal) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
                 ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7, %8;" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w), "h"(mask), "l"(cache)
                 : "memory");
}
/// Channels `c` and on of windows' elements at consecutive places, the first at column `x`, row `y` of image `n`, each
/// `dx` columns and `dy` rows further in.
DEVICE void tensor_load_windows(void* shared, const TensorMap* map, u64* barrier, i32 c, i32 x, i32 y, i32 n, u16 dx, u16 dy,
                                u64 cache = kCacheNormal) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.L2::cache_hint\n"
                 "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8}, %9;" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(x), "r"(y), "r"(n), "h"(dx), "h"(dy), "l"(cache)
                 : "memory");
}
/// Copies a box from shared memory into a tensor; what lies outside the tensor is dropped.
DEVICE void tensor_store(const TensorMap* map, const void* shared, i32 x, i32 y, i32 z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
DEVICE void tensor_store(const TensorMap* map, const void* shared, i32 x, i32 y, i32 z, i32 w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}
DEVICE void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until at most `kPending` of this thread's store groups still have to read shared memory.
template <int kPending> DEVICE void store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
/// Waits until at most `kPending` of this thread's store groups are not yet visible in global memory.
template <int kPending> DEVICE void store_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}
/// Ordinary writes to shared memory before it become visible to bulk copies and matrix products after it. Every writing
/// thread executes it, then a barrier.
DEVICE void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// One arrival on `barrier` when all earlier ordinary asynchronous copies of this thread are done (the barrier counts it
/// as expected).
DEVICE void copy_arrive(u64* barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// ---- Matrix stores -----------------------------------------------------------------------------------------------

/// Four 8x8 matrices of 16-bit elements: lanes 8i..8i+7 hold the addresses of the rows of matrix i, and lane l holds
/// columns 2(l%4) and 2(l%4)+1 of row l/4 of every matrix.
DEVICE void matrix_store4(u32 address, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
}
DEVICE void matrix_store2(u32 address, u32 a, u32 b) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared::cta.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b)
                 : "memory");
}
/// The same, each matrix transposed on the way: lane l holds rows 2(l%4) and 2(l%4)+1 of column l/4 of what is written.
DEVICE void matrix_store4_transposed(u32 address, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
}
DEVICE void matrix_store2_transposed(u32 address, u32 a, u32 b) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b)
                 : "memory");
}
DEVICE void shared_store2(u32 address, float a, float b) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(a), "f"(b) : "memory");
}
DEVICE void shared_store1(u32 address, float a) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(a) : "memory");
}

// ---- Warpgroup matrix products -----------------------------------------------------------------------------------

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending> DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving reads of accumulators across a wait.
template <int kCount> DEVICE void wgmma_touch(float (&d)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; i++) asm volatile("" : "+f"(d[i])::"memory");
}
/// Keeps the compiler from computing a fragment between the products that read it.
DEVICE void wgmma_touch(u32 (&a)[4]) {
    asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])::"memory");
}

/// Descriptor of an operand with its rows along K (K-major): rows of `kRowBytes` (128 or 64) swizzled as `swizzled` does,
/// tile base aligned to 1024. The next 32 bytes of K are +2, the next 64 rows +4 kRowBytes (units of 16 bytes).
template <int kRowBytes = 128> DEVICE u64 wgmma_descriptor(const void* tile) {
    return (u64)((shared_address(tile) & 0x3FFFF) >> 4) | (1ull << 16) | ((u64)(kRowBytes / 2) << 32) |
           ((kRowBytes == 128 ? 1ull : 2ull) << 62);
}
/// Descriptor of an operand with its rows along M or N (16-bit types only), 128-byte swizzle: panels of 64 elements, each
/// with one 128-byte row for each k, `panel_bytes` apart. The next 16 of K are +128 (units of 16 bytes).
DEVICE u64 wgmma_descriptor_mn(const void* tile, u32 panel_bytes) {
    return (u64)((shared_address(tile) & 0x3FFFF) >> 4) | ((u64)(panel_bytes >> 4) << 16) | (64ull << 32) |
           (1ull << 62);
}

/// D[64, N] (+)= A[64, K] B[N, K]^T on a warpgroup, K of 32 bytes. `ss`: both operands in shared memory; `rs`: A in
/// registers (16-bit types: warp w, rows 16w + lane/4 (+8 in a[1], a[3]), columns 2(lane%4) + {0,1} (+8 in a[2], a[3])).
/// D: rows 16w + lane/4 in d[4j], d[4j+1], +8 in d[4j+2], d[4j+3]; columns 8j + 2(lane%4) + {0,1}.
/// kTransA/kTransB: the operand is MN-major (16-bit types). `accumulate` 0 overwrites D.
template <int N, class T, int kTransA = 0, int kTransB = 0> struct Wgmma;

#define WG_S1 "%0,%1,%2,%3"
#define WG_S2 WG_S1 ",%4,%5,%6,%7"
#define WG_S3 WG_S2 ",%8,%9,%10,%11"
#define WG_S4 WG_S3 ",%12,%13,%14,%15"
#define WG_S5 WG_S4 ",%16,%17,%18,%19"
#define WG_S6 WG_S5 ",%20,%21,%22,%23"
#define WG_S8 WG_S6 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define WG_S10 WG_S8 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define WG_S12 WG_S10 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define WG_S14 WG_S12 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define WG_S16 WG_S14 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define WG_S18 WG_S16 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define WG_S20 WG_S18 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define WG_S22 WG_S20 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define WG_S24 WG_S22 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define WG_S26 WG_S24 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define WG_S28 WG_S26 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define WG_S30 WG_S28 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define WG_S32 WG_S30 ",%120,%121,%122,%123,%124,%125,%126,%127"

#define WG_Q(C, i) C(d[i]), C(d[i + 1]), C(d[i + 2]), C(d[i + 3])
#define WG_O1(C) WG_Q(C, 0)
#define WG_O2(C) WG_O1(C), WG_Q(C, 4)
#define WG_O3(C) WG_O2(C), WG_Q(C, 8)
#define WG_O4(C) WG_O3(C), WG_Q(C, 12)
#define WG_O5(C) WG_O4(C), WG_Q(C, 16)
#define WG_O6(C) WG_O5(C), WG_Q(C, 20)
#define WG_O8(C) WG_O6(C), WG_Q(C, 24), WG_Q(C, 28)
#define WG_O10(C) WG_O8(C), WG_Q(C, 32), WG_Q(C, 36)
#define WG_O12(C) WG_O10(C), WG_Q(C, 40), WG_Q(C, 44)
#define WG_O14(C) WG_O12(C), WG_Q(C, 48), WG_Q(C, 52)
#define WG_O16(C) WG_O14(C), WG_Q(C, 56), WG_Q(C, 60)
#define WG_O18(C) WG_O16(C), WG_Q(C, 64), WG_Q(C, 68)
#define WG_O20(C) WG_O18(C), WG_Q(C, 72), WG_Q(C, 76)
#define WG_O22(C) WG_O20(C), WG_Q(C, 80), WG_Q(C, 84)
#define WG_O24(C) WG_O22(C), WG_Q(C, 88), WG_Q(C, 92)
#define WG_O26(C) WG_O24(C), WG_Q(C, 96), WG_Q(C, 100)
#define WG_O28(C) WG_O26(C), WG_Q(C, 104), WG_Q(C, 108)
#define WG_O30(C) WG_O28(C), WG_Q(C, 112), WG_Q(C, 116)
#define WG_O32(C) WG_O30(C), WG_Q(C, 120), WG_Q(C, 124)
#define WG_F(x) "+f"(x)
#define WG_R(x) "+r"(x)

// G: groups of four accumulators (N / 8); I0..I6: numbers of the operands that follow them.
#define WGMMA_16BIT(TAG, NAME, N, G, I0, I1, I2, I3, I4, I5, I6, I7)                                                  \
    template <int kTransA, int kTransB> struct Wgmma<N, TAG, kTransA, kTransB> {                                      \
        typedef float Acc;                                                                                            \
        static DEVICE void ss(float (&d)[N / 2], u64 a, u64 b, i32 accumulate) {                                      \
            asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I2 ", 0;\n"                                               \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" WG_S##G "}, %" #I0      \
                         ", %" #I1 ", p, 1, 1, %" #I3 ", %" #I4 ";}\n"                                                \
                         : WG_O##G(WG_F)                                                                              \
                         : "l"(a), "l"(b), "r"(accumulate), "n"(kTransA), "n"(kTransB));                              \
        }                                                                                                             \
        static DEVICE void rs(float (&d)[N / 2], const u32 (&a)[4], u64 b, i32 accumulate) {                          \
            asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I5 ", 0;\n"                                               \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" WG_S##G "}, {%" #I0     \
                         ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p, 1, 1, %" #I6 ";}\n"                           \
                         : WG_O##G(WG_F)                                                                              \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kTransB));        \
        }                                                                                                             \
    };
#define WGMMA_WIDE(TAG, NAME, KSHAPE, N, G, I0, I1, I2, I3, I4, I5, I6, I7)                                           \
    template <> struct Wgmma<N, TAG, 0, 0> {                                                                          \
        typedef float Acc;                                                                                            \
        static DEVICE void ss(float (&d)[N / 2], u64 a, u64 b, i32 accumulate) {                                      \
            asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I2 ", 0;\n"                                               \
                         "wgmma.mma_async.sync.aligned.m64n" #N KSHAPE ".f32." NAME "." NAME " {" WG_S##G "}, %" #I0  \
                         ", %" #I1 ", p, 1, 1;}\n"                                                                    \
                         : WG_O##G(WG_F)                                                                              \
                         : "l"(a), "l"(b), "r"(accumulate));                                                          \
        }                                                                                                             \
        static DEVICE void rs(float (&d)[N / 2], const u32 (&a)[4], u64 b, i32 accumulate) {                          \
            asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I5 ", 0;\n"                                               \
                         "wgmma.mma_async.sync.aligned.m64n" #N KSHAPE ".f32." NAME "." NAME " {" WG_S##G "}, {%" #I0 \
                         ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p, 1, 1;}\n"                                     \
                         : WG_O##G(WG_F)                                                                              \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                      \
        }                                                                                                             \
    };
#define WGMMA_INT(TAG, NAME, N, G, I0, I1, I2, I3, I4, I5, I6, I7)                                                    \
    template <> struct Wgmma<N, TAG, 0, 0> {                                                                          \
        typedef i32 Acc;                                                                                              \
        static DEVICE void ss(i32 (&d)[N / 2], u64 a, u64 b, i32 accumulate) {                                        \
            asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I2 ", 0;\n"                                               \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k32.s32." NAME "." NAME " {" WG_S##G "}, %" #I0      \
                         ", %" #I1 ", p;}\n"                                                                          \
                         : WG_O##G(WG_R)                                                                              \
                         : "l"(a), "l"(b), "r"(accumulate));                                                          \
        }                                                                                                             \
    };
#define WGMMA_SHAPE(N, ...)                                                                                           \
    WGMMA_16BIT(BF16, "bf16", N, __VA_ARGS__)                                                                         \
    WGMMA_16BIT(F16, "f16", N, __VA_ARGS__)                                                                           \
    WGMMA_WIDE(TF32, "tf32", "k8", N, __VA_ARGS__)                                                                    \
    WGMMA_WIDE(E4M3, "e4m3", "k32", N, __VA_ARGS__)                                                                   \
    WGMMA_WIDE(E5M2, "e5m2", "k32", N, __VA_ARGS__)
#define WGMMA_SHAPE_INT(N, ...)                                                                                       \
    WGMMA_SHAPE(N, __VA_ARGS__)                                                                                       \
    WGMMA_INT(S8, "s8", N, __VA_ARGS__)

WGMMA_SHAPE_INT(8, 1, 4, 5, 6, 7, 8, 9, 10, 11)
WGMMA_SHAPE_INT(16, 2, 8, 9, 10, 11, 12, 13, 14, 15)
WGMMA_SHAPE_INT(24, 3, 12, 13, 14, 15, 16, 17, 18, 19)
WGMMA_SHAPE_INT(32, 4, 16, 17, 18, 19, 20, 21, 22, 23)
WGMMA_SHAPE(40, 5, 20, 21, 22, 23, 24, 25, 26, 27)
WGMMA_SHAPE_INT(48, 6, 24, 25, 26, 27, 28, 29, 30, 31)
WGMMA_SHAPE_INT(64, 8, 32, 33, 34, 35, 36, 37, 38, 39)
WGMMA_SHAPE_INT(80, 10, 40, 41, 42, 43, 44, 45, 46, 47)
WGMMA_SHAPE_INT(96, 12, 48, 49, 50, 51, 52, 53, 54, 55)
WGMMA_SHAPE_INT(112, 14, 56, 57, 58, 59, 60, 61, 62, 63)
WGMMA_SHAPE_INT(128, 16, 64, 65, 66, 67, 68, 69, 70, 71)
WGMMA_SHAPE_INT(144, 18, 72, 73, 74, 75, 76, 77, 78, 79)
WGMMA_SHAPE_INT(160, 20, 80, 81, 82, 83, 84, 85, 86, 87)
WGMMA_SHAPE_INT(176, 22, 88, 89, 90, 91, 92, 93, 94, 95)
WGMMA_SHAPE_INT(192, 24, 96, 97, 98, 99, 100, 101, 102, 103)
WGMMA_SHAPE_INT(208, 26, 104, 105, 106, 107, 108, 109, 110, 111)
WGMMA_SHAPE_INT(224, 28, 112, 113, 114, 115, 116, 117, 118, 119)
WGMMA_SHAPE_INT(240, 30, 120, 121, 122, 123, 124, 125, 126, 127)
WGMMA_SHAPE_INT(256, 32, 128, 129, 130, 131, 132, 133, 134, 135)
