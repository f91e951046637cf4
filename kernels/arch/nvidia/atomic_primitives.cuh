//! What `device/` asks of every family of the vendor where threads of a grid or a block write one place: updates of a
//! number that give what was there before.

__device__ __forceinline__ unsigned atomic_add(unsigned *at, unsigned value) { return atomicAdd(at, value); }
__device__ __forceinline__ unsigned atomic_max(unsigned *at, unsigned value) { return atomicMax(at, value); }
