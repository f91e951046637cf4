// Kernels that touch memory in every way: atomics, scratch, flat pointers, buffers, races.
#include "device.hpp"

SHARED u32 table[256];
SHARED u32 counts[64];

// Histogram of bytes into 256 counters, through LDS atomics and then global ones.
KERNEL(256) void histogram(const GLOBAL u8* x, GLOBAL u32* bins, u32 count) {
    table[thread()] = 0;
    barrier();
    for (u32 i = group_x() * 256 + thread(); i < count; i += 1024) __atomic_fetch_add(&table[x[i]], 1, __ATOMIC_RELAXED);
    barrier();
    __atomic_fetch_add(&bins[thread()], table[thread()], __ATOMIC_RELAXED);
}

KERNEL(64) void atomics(GLOBAL float* sum, GLOBAL u64* wide, GLOBAL u32* slot, GLOBAL u32* old) {
    __builtin_amdgcn_global_atomic_fadd_f32(sum, (float)thread());
    __atomic_fetch_max(wide, (u64)thread() << 40, __ATOMIC_RELAXED);
    u32 expected = 0;
    __atomic_compare_exchange_n(slot, &expected, thread() + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    old[thread()] = expected;
}

// Permutes 160 values a thread through an array that is indexed by data and too large for registers, so that it lies
// in scratch.
KERNEL(64) void scratch(const GLOBAL u32* order, const GLOBAL u32* x, GLOBAL u32* y) {
    u32 kept[160];
    for (u32 i = 0; i < 160; i++) kept[order[i]] = x[thread() * 160 + i];
    for (u32 i = 0; i < 160; i++) y[thread() * 160 + i] = kept[i];
}

// A pointer that is LDS, scratch or global memory by turns.
KERNEL(64) void flat(GLOBAL u32* x, GLOBAL u32* y, u32 which) {
    u32 own[4];
    for (u32 i = 0; i < 4; i++) own[(i + which) & 3] = thread() * 4 + i;
    table[thread()] = thread() * 3;
    u32* pointer = which == 0 ? (u32*)&table[thread()] : which == 1 ? &own[(1 + which) & 3] : (u32*)&x[thread()];
    u32 value = *pointer;
    *pointer = value + 1;
    y[thread()] = value + (which == 0 ? table[thread()] : which == 1 ? own[(1 + which) & 3] : x[thread()]);
}

// Copies through a buffer whose descriptor ends after `bytes`: what lies beyond reads zero and stays as it was.
KERNEL(64) void buffer(GLOBAL u32* x, GLOBAL u32* y, u32 bytes) {
    auto source = __builtin_amdgcn_make_buffer_rsrc((void*)x, 0, bytes, 0x00020000);
    auto target = __builtin_amdgcn_make_buffer_rsrc((void*)y, 0, bytes + 64, 0x00020000);
    u32 value = __builtin_amdgcn_raw_buffer_load_b32(source, thread() * 4, 0, 0);
    __builtin_amdgcn_raw_buffer_store_b32(value + 1, target, thread() * 4, 0, 0);
}

// One element too many is read when count is larger than the buffer.
KERNEL(64) void copy(const GLOBAL u32* x, GLOBAL u32* y, u32 count) {
    u32 i = group_x() * 64 + thread();
    if (i < count) y[i] = x[i];
}

// Waves write and read each other's values; `synchronise` says whether a barrier lies between.
KERNEL(256) void neighbours(GLOBAL u32* y, u32 synchronise) {
    table[thread()] = thread();
    if (synchronise) barrier();
    y[thread()] = table[thread() ^ 64];
}

KERNEL(64) void endless(GLOBAL u32* y) {
    while (__atomic_load_n(y, __ATOMIC_RELAXED) == 0) __builtin_amdgcn_s_sleep(1);
}

// The place of a work-item of a three-dimensional workgroup.
KERNEL(64) void place(GLOBAL u32* y) {
    u32 x = __builtin_amdgcn_workitem_id_x(), row = __builtin_amdgcn_workitem_id_y(), slice = __builtin_amdgcn_workitem_id_z();
    u32 group = group_x() + 10 * group_y() + 100 * __builtin_amdgcn_workgroup_id_z();
    y[group * 64 + x + 4 * row + 16 * slice] = x | row << 8 | slice << 16 | group << 24;
}

// What the runtime tells a kernel of its launch: sizes of the workgroup and of the grid in work-items.
KERNEL(64) void sizes(GLOBAL u32* y) {
    if (thread() == 0) {
        y[0] = __builtin_amdgcn_workgroup_size_x(), y[1] = __builtin_amdgcn_workgroup_size_y();
        y[2] = __builtin_amdgcn_grid_size_x(), y[3] = __builtin_amdgcn_grid_size_y();
    }
}
