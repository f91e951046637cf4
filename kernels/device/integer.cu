//! Products of integers of 8 bits: operands as signed rows that matrix units read, a product without matrix units, and what
//! turns exact sums into results.
//!
//! Unsigned elements become signed with their uppermost bit flipped; zero points are flipped with them, so differences stay.

__device__ __forceinline__ int signed_byte(u32 word, int at) { return (int)(word << (24 - 8 * at)) >> 24; }

__device__ __forceinline__ int sum_of_bytes(u32 word) {
    return signed_byte(word, 0) + signed_byte(word, 1) + signed_byte(word, 2) + signed_byte(word, 3);
}

// The sum over a wave, known to all its lanes.
__device__ __forceinline__ int over_wave(int v) {
    _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1) v += (int)wave_xor((u32)v, mask);
    return v;
}

struct RowsParams {
    u32 rows, columns;
    u32 pitch;      // bytes of a row of the result, a multiple of 16
    u32 flip;       // 0x80808080 for unsigned elements, else 0
    u32 is_aligned; // columns are a multiple of 16
};

// Rows of bytes as rows of signed bytes, zeros behind them, and the sum of each row; a wave a row. `to` or `sums` may be NULL.
extern "C" __global__ void __launch_bounds__(256)
    signed_rows(u32 *to, int *sums, const u8 *from, const __grid_constant__ RowsParams p) {
    begin_kernel();
    u32 lane = threadIdx.x % WAVE, waves = blockDim.x / WAVE;
    for (u32 row = blockIdx.x * waves + threadIdx.x / WAVE; row < p.rows; row += gridDim.x * waves) {
        const u8 *own = from + (i64)row * p.columns;
        int sum = 0;
        for (u32 column = lane * 16; column < p.pitch; column += WAVE * 16) {
            Pack<u32, 4> pack;
            if (p.is_aligned) {
                pack = *(const Pack<u32, 4> *)(own + column);
                _Pragma("unroll") for (int i = 0; i < 4; i++) pack.at[i] ^= p.flip;
            } else {
                _Pragma("unroll") for (int i = 0; i < 4; i++) {
                    u32 word = 0;
                    _Pragma("unroll") for (int byte = 0; byte < 4; byte++) {
                        u32 at = column + i * 4 + byte;
                        if (at < p.columns) word |= (u32)(own[at] ^ (u8)p.flip) << 8 * byte;
                    }
                    pack.at[i] = word;
                }
            }
            _Pragma("unroll") for (int i = 0; i < 4; i++) sum += sum_of_bytes(pack.at[i]);
            if (to) *(Pack<u32, 4> *)(to + ((i64)row * p.pitch + column) / 4) = pack;
        }
        sum = over_wave(sum);
        if (sums && lane == 0) sums[row] = sum;
    }
}

// A convolution's geometry: three spatial dimensions, missing ones of extent 1 in front.
struct WindowParams {
    u32 total;                 // words of the result, or its elements
    u32 channels, group_channels, outputs, group_outputs;
    u32 input[3], output[3], kernel[3], strides[3], dilations[3];
    int pads[3];
    u32 taps, positions, depth; // depth: group_channels * taps
    u32 pitch;                  // bytes of a row of patches
    u32 x_flip, w_flip;         // 0x80 for unsigned elements, else 0
    u32 w_zeros;                // zero points of the weights: 1 or one for each output
};

// The element that tap `tap` of output `position` reads of a plane, or -1 outside.
__device__ __forceinline__ i64 tap_place(u32 position, u32 tap, const WindowParams &p) {
    u32 y2 = position % p.output[2], rest = position / p.output[2], y1 = rest % p.output[1], y0 = rest / p.output[1];
    u32 k2 = tap % p.kernel[2], k = tap / p.kernel[2], k1 = k % p.kernel[1], k0 = k / p.kernel[1];
    int x0 = (int)(y0 * p.strides[0] + k0 * p.dilations[0]) - p.pads[0];
    int x1 = (int)(y1 * p.strides[1] + k1 * p.dilations[1]) - p.pads[1];
    int x2 = (int)(y2 * p.strides[2] + k2 * p.dilations[2]) - p.pads[2];
    if ((u32)x0 >= p.input[0] || (u32)x1 >= p.input[1] || (u32)x2 >= p.input[2]) return -1;
    return ((i64)x0 * p.input[1] + x1) * p.input[2] + x2;
}

// Patches of an image as signed rows, [image][position][channel, tap], with the zero point outside and 0 behind the row.
extern "C" __global__ void __launch_bounds__(256)
    byte_patches(u32 *to, const u8 *x, const u8 *x_zero, const __grid_constant__ WindowParams p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 words = p.pitch / 4, row = at / words, column = at % words * 4;
    u32 image = row / p.positions, position = row % p.positions, plane = p.input[0] * p.input[1] * p.input[2];
    u32 outside = x_zero ? *x_zero : 0, word = 0;
    for (u32 byte = 0; byte < 4 && column + byte < p.depth; byte++) {
        u32 channel = (column + byte) / p.taps;
        i64 place = tap_place(position, (column + byte) % p.taps, p);
        u32 value = place < 0 ? outside : x[((i64)image * p.channels + channel) * plane + place];
        word |= (value ^ p.x_flip) << 8 * byte;
    }
    to[at] = word;
}

// A convolution of few channels: one output a thread, exact. Zero points may be NULL.
extern "C" __global__ void __launch_bounds__(256)
    byte_conv(int *to, const u8 *x, const u8 *w, const u8 *x_zero, const u8 *w_zero,
              const __grid_constant__ WindowParams p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 position = at % p.positions, rest = at / p.positions, output = rest % p.outputs, image = rest / p.outputs;
    u32 plane = p.input[0] * p.input[1] * p.input[2], first = output / p.group_outputs * p.group_channels;
    // The difference of two flipped bytes is that of the bytes themselves.
    int own_x = (int)(i8)((x_zero ? *x_zero : 0) ^ p.x_flip);
    int own_w = (int)(i8)((w_zero ? w_zero[p.w_zeros == 1 ? 0 : output] : 0) ^ p.w_flip);
    int sum = 0;
    for (u32 tap = 0; tap < p.taps; tap++) {
        i64 place = tap_place(position, tap, p);
        if (place < 0) continue;
        for (u32 c = 0; c < p.group_channels; c++) {
            int value = (i8)(x[((i64)image * p.channels + first + c) * plane + place] ^ (u8)p.x_flip);
            int weight = (i8)(w[((i64)output * p.group_channels + c) * p.taps + tap] ^ (u8)p.w_flip);
            sum += (value - own_x) * (weight - own_w);
        }
    }
    to[at] = sum;
}

// ---- A product without matrix units ----

struct BytesParams {
    u32 m, n, words;         // words of 4 bytes of a row
    u32 a_batch, b_batch;    // words from one matrix to the next; 0: shared
};

#define BYTE_TILE 64
#define BYTE_DEPTH 8 // words

// D[m][n] = A[m][k] B[n][k], signed bytes; tiles of 64 x 64, 4 x 4 sums a thread.
extern "C" __global__ void __launch_bounds__(256)
    matmul_bytes(int *d, const u32 *a, const u32 *b, const __grid_constant__ BytesParams p) {
    __shared__ u32 left[BYTE_TILE][BYTE_DEPTH + 1], right[BYTE_TILE][BYTE_DEPTH + 1];
    begin_kernel();
    a += (i64)blockIdx.z * p.a_batch;
    b += (i64)blockIdx.z * p.b_batch;
    d += (i64)blockIdx.z * p.m * p.n;
    u32 row = blockIdx.y * BYTE_TILE, column = blockIdx.x * BYTE_TILE, x = threadIdx.x % 16, y = threadIdx.x / 16;
    int sums[4][4];
    _Pragma("unroll") for (int i = 0; i < 4; i++) _Pragma("unroll") for (int j = 0; j < 4; j++) sums[i][j] = 0;
    for (u32 first = 0; first < p.words; first += BYTE_DEPTH) {
        _Pragma("unroll") for (int i = 0; i < BYTE_TILE * BYTE_DEPTH / 256; i++) {
            u32 at = i * 256 + threadIdx.x, line = at / BYTE_DEPTH, word = at % BYTE_DEPTH;
            bool inside = first + word < p.words;
            left[line][word] = inside && row + line < p.m ? a[(i64)(row + line) * p.words + first + word] : 0;
            right[line][word] = inside && column + line < p.n ? b[(i64)(column + line) * p.words + first + word] : 0;
        }
        __syncthreads();
        _Pragma("unroll 1") for (int word = 0; word < BYTE_DEPTH; word++) {
            _Pragma("unroll") for (int byte = 0; byte < 4; byte++) {
                int own[4], other[4];
                _Pragma("unroll") for (int i = 0; i < 4; i++) own[i] = signed_byte(left[y + 16 * i][word], byte);
                _Pragma("unroll") for (int j = 0; j < 4; j++) other[j] = signed_byte(right[x + 16 * j][word], byte);
                _Pragma("unroll") for (int i = 0; i < 4; i++)
                    _Pragma("unroll") for (int j = 0; j < 4; j++) sums[i][j] += own[i] * other[j];
            }
        }
        __syncthreads();
    }
    _Pragma("unroll") for (int i = 0; i < 4; i++) _Pragma("unroll") for (int j = 0; j < 4; j++) {
        u32 at_row = row + y + 16 * i, at_column = column + x + 16 * j;
        if (at_row < p.m && at_column < p.n) d[(i64)at_row * p.n + at_column] = sums[i][j];
    }
}

// ---- Results ----

// One value, or one for each row or column, again and again.
struct Spread {
    u32 count; // 0: there is none
    u32 dtype;
};

struct ResultParams {
    u32 rows, columns; // of a matrix
    u32 total;         // elements of all matrices
    int depth;
    // Zero points of operands without a value, and what flips those with one.
    int row_zero, column_zero;
    u32 row_flip, column_flip;
    Spread row_zeros, column_zeros, row_sums, column_sums, row_scales, column_scales;
    u32 result_scale_dtype, result_zero_is_signed;
    u32 bias_dtype;
    u32 bias_row, bias_column; // strides
    float alpha;
    u32 out_dtype;
};

__device__ __forceinline__ u32 spread_at(Spread spread, u32 at) {
    return spread.count == 1 ? 0 : at < spread.count ? at : at % spread.count;
}

__device__ __forceinline__ int zero_at(const u8 *zeros, Spread spread, u32 flip, int otherwise, u32 at) {
    return spread.count ? (int)(i8)(zeros[spread_at(spread, at)] ^ (u8)flip) : otherwise;
}

__device__ __forceinline__ float real_at(const void *from, u32 dtype, u32 at) {
    if (dtype == DTYPE_F32) return ((const float *)from)[at];
    u16 bits = ((const u16 *)from)[at];
    return dtype == DTYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

__device__ __forceinline__ float scale_at(const void *scales, Spread spread, u32 at) {
    return spread.count ? real_at(scales, spread.dtype, spread_at(spread, at)) : 1.0f;
}

// The nearest even integer plus the zero point, as a byte.
__device__ __forceinline__ u8 saturated_byte(float v, int zero, bool is_signed) {
    float low = is_signed ? -128.0f : 0.0f, high = is_signed ? 127.0f : 255.0f;
    // Beyond this every sum with a zero point saturates.
    v = v > 1024.0f ? 1024.0f : v < -1024.0f ? -1024.0f : v == v ? v : 0.0f;
    v = v + 12582912.0f - 12582912.0f + (float)zero;
    return (u8)(int)(v < low ? low : v > high ? high : v);
}

template <int V>
__device__ __forceinline__ void integer_result(void *out, const int *product, const int *row_sums, const int *column_sums,
                                               const u8 *row_zeros, const u8 *column_zeros, const void *row_scales,
                                               const void *column_scales, const void *result_scale,
                                               const u8 *result_zero, const void *bias, const ResultParams &p) {
    begin_kernel();
    u32 at = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= p.total) return;
    u32 row = at / p.columns, column = at - row * p.columns, batch = row / p.rows, inner_row = row - batch * p.rows;
    u32 first = batch * p.columns + column;
    int row_zero = zero_at(row_zeros, p.row_zeros, p.row_flip, p.row_zero, row);
    int row_sum = p.row_sums.count ? row_sums[spread_at(p.row_sums, row)] : 0;
    float row_scale = scale_at(row_scales, p.row_scales, row) * p.alpha;
    Pack<int, V> sums = load_pack<int, V>(product + at);
    if (p.row_sums.count || row_zero != 0) {
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            int column_zero = zero_at(column_zeros, p.column_zeros, p.column_flip, p.column_zero, first + i);
            int column_sum = p.column_sums.count ? column_sums[spread_at(p.column_sums, first + i)] : 0;
            sums.at[i] += row_zero * (p.depth * column_zero - column_sum) - column_zero * row_sum;
        }
    }
    if (bias && p.bias_dtype == DTYPE_I32) {
        _Pragma("unroll") for (int i = 0; i < V; i++)
            sums.at[i] += ((const int *)bias)[inner_row * p.bias_row + (column + i) * p.bias_column];
    }
    if (p.out_dtype == DTYPE_I32) {
        *(Pack<int, V> *)((int *)out + at) = sums;
        return;
    }
    float result[V];
    if (result_scale) {
        float whole = real_at(result_scale, p.result_scale_dtype, 0);
        int zero = !result_zero ? 0 : p.result_zero_is_signed ? (int)(i8)*result_zero : (int)*result_zero;
        Pack<u8, V> bytes;
        float scale = 0.0f;
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            if (i == 0 || p.column_scales.count > 1)
                scale = row_scale * scale_at(column_scales, p.column_scales, first + i) / whole;
            bytes.at[i] = saturated_byte((float)sums.at[i] * scale, zero, p.out_dtype == DTYPE_I8);
        }
        *(Pack<u8, V> *)((u8 *)out + at) = bytes;
        return;
    }
    _Pragma("unroll") for (int i = 0; i < V; i++) {
        result[i] = (float)sums.at[i] * row_scale * scale_at(column_scales, p.column_scales, first + i);
        if (bias && p.bias_dtype != DTYPE_I32)
            result[i] += real_at(bias, p.bias_dtype, inner_row * p.bias_row + (column + i) * p.bias_column);
    }
    if (p.out_dtype == DTYPE_F32) {
        Pack<float, V> pack;
        _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = result[i];
        *(Pack<float, V> *)((float *)out + at) = pack;
        return;
    }
    Pack<u16, V> pack;
    _Pragma("unroll") for (int i = 0; i < V; i++)
        pack.at[i] = p.out_dtype == DTYPE_F16 ? f32_to_f16(result[i]) : f32_to_bf16(result[i]);
    *(Pack<u16, V> *)((u16 *)out + at) = pack;
}

#define RESULT_KERNEL(V)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        integer_result_v##V(void *out, const int *product, const int *row_sums, const int *column_sums,               \
                            const u8 *row_zeros, const u8 *column_zeros, const void *row_scales,                      \
                            const void *column_scales, const void *result_scale, const u8 *result_zero,               \
                            const void *bias, const __grid_constant__ ResultParams p) {                               \
        integer_result<V>(out, product, row_sums, column_sums, row_zeros, column_zeros, row_scales, column_scales,    \
                          result_scale, result_zero, bias, p);                                                        \
    }

RESULT_KERNEL(1)
RESULT_KERNEL(4)

// ---- The range of values, for scales found from them ----

struct Lower {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a < b ? a : b; }
};

// The least and greatest of the block's share of x, zero among them; NaN is passed over.
template <class S> __device__ __forceinline__ void dynamic_range(float *parts, const S *x, u32 total) {
    __shared__ float space[256 / WAVE];
    begin_kernel();
    float low = 0.0f, high = 0.0f;
    for (u32 at = blockIdx.x * blockDim.x + threadIdx.x; at < total; at += gridDim.x * blockDim.x) {
        float v = widen<float>(x[at]);
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    low = over_row<256>(low, space, Lower());
    __syncthreads();
    high = over_row<256>(high, space, Greater());
    if (threadIdx.x == 0) parts[2 * blockIdx.x] = low, parts[2 * blockIdx.x + 1] = high;
}

#define RANGE_KERNEL(NAME, S)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) NAME(float *parts, const S *x, u32 total) { \
        dynamic_range(parts, x, total);                                                                        \
    }
RANGE_KERNEL(dynamic_range_f32, float)
RANGE_KERNEL(dynamic_range_f16, f16)
RANGE_KERNEL(dynamic_range_bf16, bf16)

// The scale and zero point of u8 that cover the range, as DynamicQuantizeLinear has them; one block.
extern "C" __global__ void __launch_bounds__(256)
    dynamic_scale(float *scale, u8 *zero, const float *parts, u32 count) {
    __shared__ float space[256 / WAVE];
    begin_kernel();
    float low = 0.0f, high = 0.0f;
    for (u32 at = threadIdx.x; at < count; at += blockDim.x) {
        low = parts[2 * at] < low ? parts[2 * at] : low;
        high = parts[2 * at + 1] > high ? parts[2 * at + 1] : high;
    }
    low = over_row<256>(low, space, Lower());
    __syncthreads();
    high = over_row<256>(high, space, Greater());
    if (threadIdx.x != 0) return;
    float step = (high - low) / 255.0f;
    *scale = step == 0.0f ? 1.0f : step;
    *zero = step > 0.0f && step * 0.0f == 0.0f ? saturated_byte(-low / step, 0, false) : 0;
}
