//! What `device/` asks of this arch beyond the vendor's common part: the order of kernels that overlap.

// Everything that earlier kernels of the stream wrote is visible after it. Each kernel of `device/` calls it before it
// touches memory, because the next one may have been started meanwhile. Nothing where kernels never overlap.
__device__ __forceinline__ void dependency_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// The next kernel of the stream may be started once all blocks have come here.
__device__ __forceinline__ void dependency_launch() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
