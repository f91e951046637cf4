//! What `device/` asks of every CDNA generation of single numbers, and of stores, where plain C takes more instructions.

// 2^x; 0 where that is below the normal numbers.
DEVICE float exp2_normal(float x) { return __builtin_amdgcn_exp2f(x); }

// The larger and the smaller of two; NaN where either is.
DEVICE float maximum(float x, float y) { return (!(x <= y) && y == y) ? x : y; }
DEVICE float minimum(float x, float y) { return (!(x >= y) && y == y) ? x : y; }

// Writes 16 bytes at once.
DEVICE void store_words(void *to, unsigned a, unsigned b, unsigned c, unsigned d) {
    typedef unsigned Words __attribute__((ext_vector_type(4)));
    *(Words *)to = Words{a, b, c, d};
}
