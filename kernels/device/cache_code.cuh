//! Codes of a quantised key and value cache: how 8- and 4-bit numbers become floats, and floats become codes. Comes after
//! `float8.cu`.

#define CACHE_ELEMENT 0 // no codes: the element type of the operands
#define CACHE_E4M3 1
#define CACHE_I8 2
#define CACHE_I4 3 // two to a byte, the even column in the low half, 8 added

#define SCALE_TENSOR 0
#define SCALE_HEAD 1
#define SCALE_CHANNEL 2 // one for each column of each head

/// The nearest whole number of scales within [low, high], ties to even.
__device__ __forceinline__ int whole_code(float value, float scale, float low, float high) {
    float whole = scale == 0.0f ? 0.0f : rintf(value / scale);
    whole = whole < low ? low : whole;
    return (int)(whole > high ? high : whole);
}

/// The number of column `column` of a row of codes, without its scale.
__device__ __forceinline__ float cached_number(const u8 *row, u32 column, u32 code) {
    if (code == CACHE_E4M3) return e4m3fn::decode(row[column]);
    if (code == CACHE_I8) return (float)(i8)row[column];
    return (float)((int)(row[column / 2] >> 4 * (column % 2) & 15) - 8);
}

/// The place of a column's scale.
__device__ __forceinline__ u32 scale_place(u32 kind, u32 head, u32 columns, u32 column) {
    return kind == SCALE_TENSOR ? 0 : kind == SCALE_HEAD ? head : head * columns + column;
}
