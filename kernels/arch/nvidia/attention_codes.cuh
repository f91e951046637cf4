//! Caches in shared memory as operands of warp products of 16-bit floats, of e4m3 codes too. Codes that are no numbers read
//! as +-480.
//!
//! Definitions from the unit: HEAD_QK, HEAD_V, CODES (1: the cache holds e4m3 codes).

/// Bytes of a panel's row; products take 32 of them a step.
constexpr int kRowBytes = CODES && HEAD_QK <= 64 ? 64 : 128, kRowSteps = kRowBytes / 32;
/// Columns of a panel, and panels of keys and of values.
constexpr int kPanelColumns = CODES ? kRowBytes : 64;
constexpr int kKPanels = (HEAD_QK + kPanelColumns - 1) / kPanelColumns;
constexpr int kVPanels = (HEAD_V + kPanelColumns - 1) / kPanelColumns;
static_assert(!CODES || HEAD_QK == HEAD_V, "rows of keys and values are as long");

/// Four codes as two pairs of floats of type T: the even bytes, and the odd ones. The bits of a code, moved to where T has
/// them, are its number times a power of two.
template <class T> struct Code4;
template <> struct Code4<BF16> {
    static constexpr u32 kBits = 0x07f007f0u, kScale = 0x7b807b80u; // 2^120
    static constexpr int kLeft = 4, kRight = 4;
};
template <> struct Code4<F16> {
    static constexpr u32 kBits = 0x3f803f80u, kScale = 0x5c005c00u; // 2^8
    static constexpr int kLeft = 7, kRight = 1;
};
template <class T> DEVICE void widen4(u32 codes, u32& even, u32& odd) {
    constexpr u32 kSigns = 0x80008000u;
    even = fma2<T>(and_or<Code4<T>::kBits>(codes << Code4<T>::kLeft, codes << 8 & kSigns), Code4<T>::kScale, kSigns);
    odd = fma2<T>(and_or<Code4<T>::kBits>(codes >> Code4<T>::kRight, codes & kSigns), Code4<T>::kScale, kSigns);
}

/// What the codes of a head are multiplied by; `step` 0: one scale for all heads.
struct CodeScales {
    const float *k, *v;
    i32 step;
    DEVICE float of_keys(i32 head) const { return k ? k[head * step] : 1.0f; }
    DEVICE float of_values(i32 head) const { return v ? v[head * step] : 1.0f; }
};
