//! What `device/` asks of every family of the vendor of single numbers, and of stores, where plain C takes more instructions.

// 2^x; 0 where that is below the normal numbers.
__device__ __forceinline__ float exp2_normal(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The larger and the smaller of two; NaN where either is.
__device__ __forceinline__ float maximum(float x, float y) {
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}
__device__ __forceinline__ float minimum(float x, float y) {
    float z;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}

// Writes 16 bytes at once.
__device__ __forceinline__ void store_words(void *to, unsigned a, unsigned b, unsigned c, unsigned d) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(a), "r"(b), "r"(c), "r"(d));
}
