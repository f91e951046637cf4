//! What `device/` asks of every CDNA generation where threads of a grid or a group write one place: updates of a number
//! that give what was there before.

DEVICE u32 atomic_add(u32 *at, u32 value) {
    return __hip_atomic_fetch_add(at, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
DEVICE u32 atomic_max(u32 *at, u32 value) {
    return __hip_atomic_fetch_max(at, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
